//! Who owns what money.
//!
//! Guarantees:
//! - **Double entry.** Every operation moves an amount from one place to another, so the sum of the bank, the treasury
//!   and all accounts' free and escrowed money is the amount issued at the start, after each operation.
//! - **No debt.** No place ever falls below 0; an operation that would cause it is refused and changes nothing.
//! - **Nothing unrecorded.** Every movement is one [`Posting`] in the journal. The journal is append-only; the caller
//!   drains it, and while it is full every operation is refused.
//! - The journal's `head` chains all postings: two ledgers with the same head went the same way. It guards against loss
//!   and mistakes, not against an operator who rewrites the whole journal (MARKET.md, "Audit").
//!
//! Money comes from the **bank** (what was issued and is with nobody yet) and goes back there when an account is
//! closed. What the market earns is in the **treasury**.

mod posting;

pub use posting::{Cause, Kind, Place, Posting};

use core::fmt;

use heapless::{Deque, Vec};

use crate::types::{AccountId, Credits};

/// One account's money.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balance {
    /// Whose.
    pub account: AccountId,
    /// What it may use.
    pub free: Credits,
    /// What is set aside.
    pub escrow: Credits,
    /// All charges so far.
    pub charged: Credits,
    /// All refunds and penalties received so far.
    pub returned: Credits,
}

/// Why an operation was refused. It then changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LedgerError {
    /// The account is not open.
    NoSuchAccount,
    /// The account is open already.
    AlreadyOpen,
    /// All slots for accounts are taken.
    TooManyAccounts,
    /// The place has less than that.
    NotEnough,
    /// Amounts are at least 0.
    NegativeAmount,
    /// The journal has to be drained first.
    JournalFull,
    /// The account's escrow has to be released before it is closed.
    EscrowLeft,
}

impl fmt::Display for LedgerError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            LedgerError::NoSuchAccount => "the account is not open",
            LedgerError::AlreadyOpen => "the account is open already",
            LedgerError::TooManyAccounts => "all slots for accounts are taken",
            LedgerError::NotEnough => "not enough money there",
            LedgerError::NegativeAmount => "the amount is below 0",
            LedgerError::JournalFull => "the journal is full",
            LedgerError::EscrowLeft => "the account still has money in escrow",
        })
    }
}

impl core::error::Error for LedgerError {}

/// What [`Ledger::verify`] found wrong. It means a fault in this crate or in memory, never a caller's mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corruption {
    /// The places do not add up to what was issued.
    Sum {
        /// What they add up to.
        found: Credits,
        /// What was issued.
        issued: Credits,
    },
    /// A place is below 0.
    Negative(Place),
    /// The accounts are not in ascending order.
    Order,
}

/// The ledger: up to `ACCOUNTS` accounts, and a journal of up to `JOURNAL` postings not drained yet.
#[derive(Debug)]
pub struct Ledger<const ACCOUNTS: usize, const JOURNAL: usize> {
    issued: Credits,
    bank: Credits,
    treasury: Credits,
    /// In ascending order of account.
    accounts: Vec<Balance, ACCOUNTS>,
    journal: Deque<Posting, JOURNAL>,
    next: u64,
    head: u64,
    /// Where the last account was found: rounds go through the accounts in their order.
    last: usize,
}

impl<const ACCOUNTS: usize, const JOURNAL: usize> Ledger<ACCOUNTS, JOURNAL> {
    /// A ledger whose bank holds `issued`, which is all the money there will ever be (0 to [`Credits::MAX`]; clamped).
    #[must_use]
    pub const fn new(issued: Credits) -> Self {
        let issued = if issued.0 < 0 {
            Credits::ZERO
        } else if issued.0 > Credits::MAX.0 {
            Credits::MAX
        } else {
            issued
        };
        Ledger {
            issued,
            bank: issued,
            treasury: Credits::ZERO,
            accounts: Vec::new(),
            journal: Deque::new(),
            next: 0,
            head: 0,
            last: 0,
        }
    }

    /// Opens an account with no money.
    ///
    /// # Errors
    /// [`LedgerError::AlreadyOpen`], [`LedgerError::TooManyAccounts`].
    pub fn open(&mut self, account: AccountId) -> Result<(), LedgerError> {
        let Err(at) = self.find(account) else {
            return Err(LedgerError::AlreadyOpen);
        };
        let balance = Balance {
            account,
            free: Credits::ZERO,
            escrow: Credits::ZERO,
            charged: Credits::ZERO,
            returned: Credits::ZERO,
        };
        self.accounts.insert(at, balance).map_err(|_| LedgerError::TooManyAccounts)
    }

    /// Closes an account and pays its free money out to the bank. Returns what it was.
    ///
    /// # Errors
    /// [`LedgerError::NoSuchAccount`], [`LedgerError::EscrowLeft`], [`LedgerError::JournalFull`].
    pub fn close(&mut self, account: AccountId) -> Result<Balance, LedgerError> {
        let balance = *self.balance(account).ok_or(LedgerError::NoSuchAccount)?;
        if balance.escrow > Credits::ZERO {
            return Err(LedgerError::EscrowLeft);
        }
        let free = Place::Free(account);
        self.transfer(Kind::Payout, free, Place::Bank, balance.free, Cause::default())?;
        if let Ok(at) = self.find(account) {
            self.accounts.remove(at);
        }
        Ok(balance)
    }

    /// Money that an account's owner pays in.
    ///
    /// # Errors
    /// [`LedgerError::NoSuchAccount`], [`LedgerError::NotEnough`] (in the bank), [`LedgerError::NegativeAmount`],
    /// [`LedgerError::JournalFull`].
    pub fn top_up(&mut self, account: AccountId, amount: Credits) -> Result<(), LedgerError> {
        let free = Place::Free(account);
        self.transfer(Kind::TopUp, Place::Bank, free, amount, Cause::default())
    }

    /// An account's regular income.
    ///
    /// # Errors
    /// As [`Ledger::top_up`].
    pub fn income(&mut self, account: AccountId, amount: Credits, cause: Cause) -> Result<(), LedgerError> {
        let free = Place::Free(account);
        self.transfer(Kind::Income, Place::Bank, free, amount, cause)
    }

    /// Money that the operator pays in, for instance to be able to pay penalties.
    ///
    /// # Errors
    /// As [`Ledger::top_up`].
    pub fn add_capital(&mut self, amount: Credits) -> Result<(), LedgerError> {
        let (bank, treasury) = (Place::Bank, Place::Treasury);
        self.transfer(Kind::Capital, bank, treasury, amount, Cause::default())
    }

    /// Sets free money aside.
    ///
    /// # Errors
    /// As [`Ledger::top_up`]; not enough *free* money.
    pub fn escrow(&mut self, account: AccountId, amount: Credits, cause: Cause) -> Result<(), LedgerError> {
        let (from, to) = (Place::Free(account), Place::Escrow(account));
        self.transfer(Kind::Escrow, from, to, amount, cause)
    }

    /// Takes a price from what was set aside.
    ///
    /// # Errors
    /// As [`Ledger::top_up`]; not enough in *escrow*.
    pub fn charge(&mut self, account: AccountId, amount: Credits, cause: Cause) -> Result<(), LedgerError> {
        let from = Place::Escrow(account);
        self.transfer(Kind::Charge, from, Place::Treasury, amount, cause)
    }

    /// Gives back what was set aside and is no longer needed.
    ///
    /// # Errors
    /// As [`Ledger::top_up`]; not enough in *escrow*.
    pub fn release(&mut self, account: AccountId, amount: Credits, cause: Cause) -> Result<(), LedgerError> {
        let (from, to) = (Place::Escrow(account), Place::Free(account));
        self.transfer(Kind::Release, from, to, amount, cause)
    }

    /// Pays back for something given back early.
    ///
    /// # Errors
    /// As [`Ledger::top_up`]; not enough in the *treasury*.
    pub fn refund(&mut self, account: AccountId, amount: Credits, cause: Cause) -> Result<(), LedgerError> {
        let to = Place::Free(account);
        self.transfer(Kind::Refund, Place::Treasury, to, amount, cause)
    }

    /// Pays for a lease that the operator broke.
    ///
    /// # Errors
    /// As [`Ledger::top_up`]; not enough in the *treasury*.
    pub fn penalty(&mut self, account: AccountId, amount: Credits, cause: Cause) -> Result<(), LedgerError> {
        let to = Place::Free(account);
        self.transfer(Kind::Penalty, Place::Treasury, to, amount, cause)
    }

    /// Sets aside and charges at once: two postings, both or neither.
    ///
    /// # Errors
    /// As [`Ledger::top_up`]; not enough *free* money.
    pub fn pay(&mut self, account: AccountId, amount: Credits, cause: Cause) -> Result<(), LedgerError> {
        if self.journal_room() < 2 {
            return Err(LedgerError::JournalFull);
        }
        self.escrow(account, amount, cause)?;
        self.charge(account, amount, cause)
    }

    /// The oldest posting that was not drained yet, which this removes from memory.
    pub fn drain(&mut self) -> Option<Posting> {
        self.journal.pop_front()
    }

    /// How many postings fit before the journal has to be drained.
    #[must_use]
    pub fn journal_room(&self) -> usize {
        JOURNAL - self.journal.len()
    }

    /// The chain over all postings ever made.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.head
    }

    /// How many postings were ever made.
    #[must_use]
    pub fn postings(&self) -> u64 {
        self.next
    }

    /// An account's money, if it is open.
    #[must_use]
    pub fn balance(&self, account: AccountId) -> Option<&Balance> {
        self.find(account).ok().map(|at| &self.accounts[at])
    }

    /// All open accounts in ascending order.
    #[must_use]
    pub fn balances(&self) -> &[Balance] {
        &self.accounts
    }

    /// An account's free money; 0 if it is not open.
    #[must_use]
    pub fn free(&self, account: AccountId) -> Credits {
        self.balance(account).map_or(Credits::ZERO, |balance| balance.free)
    }

    /// The operator's earnings.
    #[must_use]
    pub fn treasury(&self) -> Credits {
        self.treasury
    }

    /// What was issued and is with nobody.
    #[must_use]
    pub fn bank(&self) -> Credits {
        self.bank
    }

    /// All the money there is.
    #[must_use]
    pub fn issued(&self) -> Credits {
        self.issued
    }

    /// Adds everything up.
    ///
    /// # Errors
    /// The first [`Corruption`] found.
    pub fn verify(&self) -> Result<(), Corruption> {
        let mut found = self.bank + self.treasury;
        let mut last = None;
        for (place, amount) in [(Place::Bank, self.bank), (Place::Treasury, self.treasury)] {
            if amount < Credits::ZERO {
                return Err(Corruption::Negative(place));
            }
        }
        for balance in &self.accounts {
            if balance.free < Credits::ZERO {
                return Err(Corruption::Negative(Place::Free(balance.account)));
            }
            if balance.escrow < Credits::ZERO {
                return Err(Corruption::Negative(Place::Escrow(balance.account)));
            }
            if last.is_some_and(|last| last >= balance.account) {
                return Err(Corruption::Order);
            }
            last = Some(balance.account);
            found += balance.free + balance.escrow;
        }
        if found == self.issued {
            Ok(())
        } else {
            let issued = self.issued;
            Err(Corruption::Sum { found, issued })
        }
    }

    /// The account's index, or where it would be inserted. At once if it is the last one found or the next.
    fn find(&self, account: AccountId) -> Result<usize, usize> {
        let is_it = |at: &usize| self.accounts.get(*at).is_some_and(|balance| balance.account == account);
        match [self.last, self.last + 1].into_iter().find(is_it) {
            Some(at) => Ok(at),
            None => self.accounts.binary_search_by_key(&account, |balance| balance.account),
        }
    }

    /// The amount at a place. `at` is the index of the account whose place it is, if it is one's.
    fn place(&mut self, place: Place, at: usize) -> &mut Credits {
        match place {
            Place::Bank => &mut self.bank,
            Place::Treasury => &mut self.treasury,
            Place::Free(_) => &mut self.accounts[at].free,
            Place::Escrow(_) => &mut self.accounts[at].escrow,
        }
    }

    /// The only way money moves: between two places, of which those of accounts belong to the same account. An amount of 0
    /// changes nothing and is not recorded.
    fn transfer(
        &mut self,
        kind: Kind,
        from: Place,
        to: Place,
        amount: Credits,
        cause: Cause,
    ) -> Result<(), LedgerError> {
        if amount < Credits::ZERO {
            return Err(LedgerError::NegativeAmount);
        }
        let at = match (from, to) {
            (Place::Free(account) | Place::Escrow(account), _) | (_, Place::Free(account) | Place::Escrow(account)) => {
                self.find(account).map_err(|_| LedgerError::NoSuchAccount)?
            }
            (Place::Bank | Place::Treasury, Place::Bank | Place::Treasury) => 0,
        };
        self.last = at;
        if *self.place(from, at) < amount {
            return Err(LedgerError::NotEnough);
        }
        if amount == Credits::ZERO {
            return Ok(());
        }
        let posting = Posting { number: self.next, kind, from, to, amount, cause };
        self.journal.push_back(posting).map_err(|_| LedgerError::JournalFull)?;
        *self.place(from, at) -= amount;
        *self.place(to, at) += amount;
        self.next += 1;
        self.head = posting.chain(self.head);
        match kind {
            Kind::Charge => self.accounts[at].charged += amount,
            Kind::Refund | Kind::Penalty => self.accounts[at].returned += amount,
            Kind::TopUp | Kind::Income | Kind::Capital | Kind::Escrow | Kind::Release | Kind::Payout => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{GoodId, RoundNo};

    const A: AccountId = AccountId(7);

    fn ledger() -> Ledger<2, 4> {
        let mut ledger = Ledger::new(Credits(1_000));
        ledger.open(A).unwrap();
        ledger.top_up(A, Credits(100)).unwrap();
        ledger
    }

    #[test]
    fn money_moves_and_is_recorded() {
        let mut ledger = ledger();
        let cause = Cause { good: Some(GoodId(3)), round: RoundNo(9) };
        ledger.escrow(A, Credits(60), cause).unwrap();
        ledger.charge(A, Credits(40), cause).unwrap();
        ledger.release(A, Credits(20), cause).unwrap();
        let balance = *ledger.balance(A).unwrap();
        assert_eq!((balance.free, balance.escrow), (Credits(60), Credits(0)));
        assert_eq!((balance.charged, ledger.treasury()), (Credits(40), Credits(40)));
        assert_eq!(ledger.verify(), Ok(()));
        let mut head = 0;
        let kinds: std::vec::Vec<Kind> = core::iter::from_fn(|| ledger.drain())
            .inspect(|posting| head = posting.chain(head))
            .map(|posting| posting.kind)
            .collect();
        assert_eq!(kinds, [Kind::TopUp, Kind::Escrow, Kind::Charge, Kind::Release]);
        assert_eq!(head, ledger.head());
    }

    #[test]
    fn no_place_falls_below_zero() {
        let mut ledger = ledger();
        let cause = Cause::default();
        assert_eq!(ledger.escrow(A, Credits(101), cause), Err(LedgerError::NotEnough));
        assert_eq!(ledger.charge(A, Credits(1), cause), Err(LedgerError::NotEnough));
        assert_eq!(ledger.refund(A, Credits(1), cause), Err(LedgerError::NotEnough));
        assert_eq!(ledger.top_up(A, Credits(901)), Err(LedgerError::NotEnough));
        assert_eq!(ledger.top_up(A, Credits(-1)), Err(LedgerError::NegativeAmount));
        assert_eq!(ledger.top_up(AccountId(1), Credits(1)), Err(LedgerError::NoSuchAccount));
        assert_eq!(ledger.postings(), 1);
        assert_eq!(ledger.verify(), Ok(()));
    }

    #[test]
    fn a_full_journal_stops_everything_and_loses_nothing() {
        let mut ledger = ledger();
        for _ in 0..3 {
            ledger.top_up(A, Credits(1)).unwrap();
        }
        let before = ledger.head();
        assert_eq!(ledger.top_up(A, Credits(1)), Err(LedgerError::JournalFull));
        assert_eq!(ledger.pay(A, Credits(1), Cause::default()), Err(LedgerError::JournalFull));
        ledger.drain();
        // One free slot is not enough for the two postings of a payment.
        assert_eq!(ledger.pay(A, Credits(1), Cause::default()), Err(LedgerError::JournalFull));
        assert_eq!((ledger.head(), ledger.free(A)), (before, Credits(103)));
        ledger.top_up(A, Credits(1)).unwrap();
        assert_eq!(ledger.free(A), Credits(104));
    }

    #[test]
    fn an_account_is_closed_only_without_escrow() {
        let mut ledger = ledger();
        let cause = Cause::default();
        ledger.escrow(A, Credits(10), cause).unwrap();
        assert_eq!(ledger.close(A), Err(LedgerError::EscrowLeft));
        ledger.release(A, Credits(10), cause).unwrap();
        assert_eq!(ledger.close(A).map(|balance| balance.free), Ok(Credits(100)));
        assert_eq!(ledger.bank(), Credits(1_000));
        assert_eq!(ledger.close(A), Err(LedgerError::NoSuchAccount));
        assert_eq!(ledger.verify(), Ok(()));
    }

    #[test]
    fn capacity_is_respected() {
        let mut ledger = ledger();
        assert_eq!(ledger.open(A), Err(LedgerError::AlreadyOpen));
        ledger.open(AccountId(1)).unwrap();
        assert_eq!(ledger.open(AccountId(2)), Err(LedgerError::TooManyAccounts));
        let order: std::vec::Vec<u32> = ledger.balances().iter().map(|b| b.account.0).collect();
        assert_eq!(order, [1, 7]);
    }

    #[test]
    fn verify_sees_what_is_wrong() {
        let mut ledger = ledger();
        ledger.treasury += Credits(1);
        assert!(matches!(ledger.verify(), Err(Corruption::Sum { .. })));
        ledger.treasury = Credits(-1);
        assert_eq!(ledger.verify(), Err(Corruption::Negative(Place::Treasury)));
    }
}
