//! Ten million random operations on the ledger (`cargo xtask market check --full`: a hundred million), each followed by
//! adding everything up, and a replay of the journal that reaches the same balances by itself.

mod common;

use common::{Random, is_full};
use market_mechanism::ledger::{Balance, Cause, Kind, Ledger, LedgerError, Place, Posting};
use market_mechanism::{AccountId, Credits, GoodId, RoundNo};

/// Accounts that the operations are about; two more than fit.
const ACCOUNTS: usize = 8;

/// Places and what they hold, from postings alone.
#[derive(Default)]
struct Replay {
    bank: i128,
    treasury: i128,
    free: [i128; ACCOUNTS],
    escrow: [i128; ACCOUNTS],
    head: u64,
    count: u64,
}

impl Replay {
    fn apply(&mut self, posting: &Posting) {
        assert_eq!(posting.number, self.count);
        assert!(posting.amount > Credits::ZERO);
        *self.at(posting.from) -= posting.amount.0;
        *self.at(posting.to) += posting.amount.0;
        self.head = posting.chain(self.head);
        self.count += 1;
    }

    fn at(&mut self, place: Place) -> &mut i128 {
        match place {
            Place::Bank => &mut self.bank,
            Place::Treasury => &mut self.treasury,
            Place::Free(account) => &mut self.free[account.0 as usize],
            Place::Escrow(account) => &mut self.escrow[account.0 as usize],
        }
    }

    /// Whether the ledger says the same.
    fn check(&mut self, money: &Money) {
        assert_eq!((self.head, self.count), (money.head(), money.postings()));
        assert_eq!(self.treasury, money.treasury().0);
        assert_eq!(self.bank + money.issued().0, money.bank().0);
        for account in 0..ACCOUNTS {
            let open = money.balance(AccountId(account as u32));
            let open = open.map_or((0, 0), |balance| (balance.free.0, balance.escrow.0));
            assert_eq!((self.free[account], self.escrow[account]), open, "account {account}");
        }
    }
}

type Money = Ledger<6, 64>;

fn random_operation(random: &mut Random, ledger: &mut Money) -> Result<(), LedgerError> {
    let account = AccountId(random.below(ACCOUNTS as u64) as u32);
    let amount = match random.below(10) {
        0 => Credits::ZERO,
        1 => Credits(-i128::from(random.below(50))),
        2 => Credits(i128::from(random.next()) << random.below(60)),
        _ => Credits(i128::from(random.below(500))),
    };
    let cause = Cause { good: random.chance(2).then_some(GoodId(3)), round: RoundNo(random.below(9)) };
    match random.below(12) {
        0 => ledger.open(account),
        1 if random.chance(8) => ledger.close(account).map(|_| ()),
        1 | 2 => ledger.top_up(account, amount),
        3 => ledger.income(account, amount, cause),
        4 => ledger.add_capital(amount),
        5 => ledger.escrow(account, amount, cause),
        6 => ledger.charge(account, amount, cause),
        7 => ledger.release(account, amount, cause),
        8 => ledger.refund(account, amount, cause),
        9 => ledger.penalty(account, amount, cause),
        _ => ledger.pay(account, amount, cause),
    }
}

/// Everything that an operation could change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct State {
    bank: Credits,
    treasury: Credits,
    balances: [Option<Balance>; ACCOUNTS],
    head: u64,
}

impl State {
    fn of(money: &Money) -> State {
        let mut balances = [None; ACCOUNTS];
        for balance in money.balances() {
            balances[balance.account.0 as usize] = Some(*balance);
        }
        State { bank: money.bank(), treasury: money.treasury(), balances, head: money.head() }
    }

    /// Balances, escrow, treasury and bank together. No place may be below 0.
    fn sum(&self) -> Credits {
        let accounts = self.balances.iter().flatten().flat_map(|balance| [balance.free, balance.escrow]);
        let places = accounts.chain([self.bank, self.treasury]);
        places.inspect(|amount| assert!(*amount >= Credits::ZERO)).sum()
    }
}

#[test]
fn random_operations_conserve_money_and_never_make_debt() {
    let operations = if is_full() { 100_000_000 } else { 10_000_000 };
    let issued = Credits(1 << 80);
    let mut random = Random(11);
    let mut money = Money::new(issued);
    let mut replay = Replay::default();
    let (mut done, mut refused) = (0u32, std::collections::HashMap::new());
    let mut before = State::of(&money);
    for _ in 0..operations {
        let answer = random_operation(&mut random, &mut money);
        let after = State::of(&money);
        assert_eq!(after.sum(), issued);
        match answer {
            Ok(()) => done += 1,
            Err(error) => {
                *refused.entry(core::mem::discriminant(&error)).or_insert(0u32) += 1;
                assert_eq!(before, after, "a refused operation changes nothing");
            }
        }
        before = after;
        // Seldom enough for the journal to fill up now and then.
        if random.chance(90) {
            assert_eq!(money.verify(), Ok(()));
            while let Some(posting) = money.drain() {
                replay.apply(&posting);
            }
            replay.check(&money);
        }
    }
    assert!(done > operations / 3, "{done}");
    assert_eq!(refused.len(), 7, "every refusal was met: {refused:?}");
    println!("{operations} operations, {done} done, {} postings", money.postings());
}

#[test]
fn the_head_depends_on_every_part_of_a_posting() {
    let posting = Posting {
        number: 1,
        kind: Kind::Charge,
        from: Place::Escrow(AccountId(1)),
        to: Place::Treasury,
        amount: Credits(5),
        cause: Cause::default(),
    };
    let with_round = Cause { round: RoundNo(1), ..Cause::default() };
    let with_good = Cause { good: Some(GoodId(0)), ..Cause::default() };
    let mut heads = vec![
        posting.chain(0),
        posting.chain(1),
        Posting { number: 2, ..posting }.chain(0),
        Posting { kind: Kind::Release, ..posting }.chain(0),
        Posting { from: Place::Free(AccountId(1)), ..posting }.chain(0),
        Posting { from: Place::Escrow(AccountId(2)), ..posting }.chain(0),
        Posting { to: Place::Bank, ..posting }.chain(0),
        Posting { amount: Credits(6), ..posting }.chain(0),
        Posting { amount: Credits(5 + (1 << 64)), ..posting }.chain(0),
        Posting { cause: with_round, ..posting }.chain(0),
        Posting { cause: with_good, ..posting }.chain(0),
    ];
    let all = heads.len();
    heads.sort_unstable();
    heads.dedup();
    assert_eq!(heads.len(), all);
}
