//! A million random operations on the ledger, each followed by adding everything up, and a replay of the journal that
//! reaches the same balances by itself.

mod common;

use std::collections::BTreeMap;

use common::Random;
use market_mechanism::ledger::{Cause, Kind, Ledger, LedgerError, Place, Posting};
use market_mechanism::{AccountId, Credits, GoodId, RoundNo};

/// Places and what they hold, from postings alone.
#[derive(Default)]
struct Replay {
    places: BTreeMap<String, i128>,
    head: u64,
    count: u64,
}

impl Replay {
    fn apply(&mut self, posting: &Posting) {
        assert_eq!(posting.number, self.count);
        assert!(posting.amount > Credits::ZERO);
        *self.places.entry(format!("{:?}", posting.from)).or_default() -= posting.amount.0;
        *self.places.entry(format!("{:?}", posting.to)).or_default() += posting.amount.0;
        self.head = posting.chain(self.head);
        self.count += 1;
    }

    fn at(&self, place: Place) -> Credits {
        let amount = self.places.get(&format!("{place:?}"));
        Credits(amount.copied().unwrap_or(0))
    }
}

fn random_operation(random: &mut Random, ledger: &mut Ledger<6, 64>) -> Result<(), LedgerError> {
    let account = AccountId(random.below(8) as u32);
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

#[test]
fn a_million_operations_conserve_money_and_never_make_debt() {
    let mut random = Random(11);
    let mut ledger = Ledger::<6, 64>::new(Credits(1 << 80));
    let mut replay = Replay::default();
    let (mut done, mut refused) = (0u32, BTreeMap::new());
    for _ in 0..1_000_000 {
        let before = (ledger.head(), ledger.balances().to_vec(), ledger.treasury(), ledger.bank());
        match random_operation(&mut random, &mut ledger) {
            Ok(()) => done += 1,
            Err(error) => {
                *refused.entry(format!("{error:?}")).or_insert(0u32) += 1;
                let after = (ledger.head(), ledger.balances().to_vec(), ledger.treasury(), ledger.bank());
                assert_eq!(before, after, "a refused operation changes nothing");
            }
        }
        assert_eq!(ledger.verify(), Ok(()));
        // Seldom enough for the journal to fill up now and then.
        if random.chance(90) {
            while let Some(posting) = ledger.drain() {
                replay.apply(&posting);
            }
        }
    }
    while let Some(posting) = ledger.drain() {
        replay.apply(&posting);
    }
    assert!(done > 300_000, "{done}");
    assert_eq!(refused.len(), 7, "every refusal was met: {refused:?}");
    assert_eq!((replay.head, replay.count), (ledger.head(), ledger.postings()));
    assert_eq!(replay.at(Place::Treasury), ledger.treasury());
    assert_eq!(replay.at(Place::Bank) + ledger.issued(), ledger.bank());
    for balance in ledger.balances() {
        assert_eq!(replay.at(Place::Free(balance.account)), balance.free);
        assert_eq!(replay.at(Place::Escrow(balance.account)), balance.escrow);
    }
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
