//! One movement of money, as the journal records it, and how the journal's head chains them.

use crate::types::{AccountId, Credits, GoodId, RoundNo};

/// Where money can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// Issued, and with nobody.
    Bank,
    /// The operator's earnings.
    Treasury,
    /// An account's money that it may use.
    Free(AccountId),
    /// An account's money that is set aside for something agreed.
    Escrow(AccountId),
}

/// Why money moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Bank to an account: its owner paid in.
    TopUp = 1,
    /// Bank to an account: its regular income.
    Income = 2,
    /// Bank to the treasury: the operator paid in.
    Capital = 3,
    /// An account's free money to its escrow.
    Escrow = 4,
    /// Escrow to the treasury: the price of something delivered after this.
    Charge = 5,
    /// Escrow back to free.
    Release = 6,
    /// Treasury to an account: it gave something back that was sold again.
    Refund = 7,
    /// Treasury to an account: the operator broke a lease.
    Penalty = 8,
    /// An account's free money to the bank when it is closed.
    Payout = 9,
}

/// What a posting is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Cause {
    /// The good; `None` for what concerns no good, such as a top-up.
    pub good: Option<GoodId>,
    /// The round in which it happened.
    pub round: RoundNo,
}

/// One movement of money.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Posting {
    /// Counts from 0 without gaps.
    pub number: u64,
    /// Why.
    pub kind: Kind,
    /// Whose place loses it.
    pub from: Place,
    /// Whose place gains it.
    pub to: Place,
    /// How much; above 0.
    pub amount: Credits,
    /// About what.
    pub cause: Cause,
}

impl Posting {
    /// The journal's head after this posting, given the head before it.
    #[must_use]
    pub fn chain(&self, head: u64) -> u64 {
        let place = |place: Place| match place {
            Place::Bank => 0,
            Place::Treasury => 1,
            Place::Free(account) => 2 << 32 | u64::from(account.0),
            Place::Escrow(account) => 3 << 32 | u64::from(account.0),
        };
        let good = self.cause.good.map_or(0, |good| 1 << 16 | u64::from(good.0));
        let amount = self.amount.0 as u128;
        let words = [
            self.number,
            self.kind as u64,
            place(self.from),
            place(self.to),
            amount as u64,
            (amount >> 64) as u64,
            good,
            self.cause.round.0,
        ];
        let sum = words.iter().zip(WORD_KEYS).fold(0, |sum: u64, (word, key)| sum.wrapping_add(word.wrapping_mul(key)));
        scatter(head.rotate_left(5) ^ sum)
    }
}

/// A multiplier for each word's place (multilinear hashing, Lemire and Kaser 2014): bits of pi, made odd, so that any
/// change of a single word changes the sum.
const WORD_KEYS: [u64; 8] = [
    0x243f_6a88_85a3_08d3,
    0x1319_8a2e_0370_7345,
    0xa409_3822_299f_31d1,
    0x082e_fa98_ec4e_6c89,
    0x4528_21e6_38d0_1377,
    0xbe54_66cf_34e9_0c6d,
    0xc0ac_29b7_c97c_50dd,
    0x3f84_d5b5_b547_0917,
];

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every bit of `word` reaches every bit out.
fn scatter(word: u64) -> u64 {
    let mut z = word;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
