//! What those who have no function any more had sent beyond their rate: the next function of the same address begins with
//! it, so that nobody gets rid of a debt by giving a function back and taking another one.

use igbvf::MacAddress;

/// Debts that are remembered; of more, the largest.
const MOST: usize = 32;

/// Bits that are owed, by address. 0: a free place.
#[derive(Debug)]
pub struct Debts([(MacAddress, u64); MOST]);

impl Debts {
    /// Nobody owes anything.
    pub const fn new() -> Debts {
        Debts([(MacAddress([0; 6]), 0); MOST])
    }

    /// Remembers what an address owes.
    pub fn keep(&mut self, mac: MacAddress, bits: u64) {
        let bits = bits.saturating_add(self.take(mac));
        if let Some(least) = self.0.iter_mut().min_by_key(|(_, owed)| *owed)
            && least.1 < bits
        {
            *least = (mac, bits);
        }
    }

    /// What an address owes; it is forgotten here.
    pub fn take(&mut self, mac: MacAddress) -> u64 {
        let found = self.0.iter_mut().find(|(whose, bits)| *whose == mac && *bits != 0);
        found.map_or(0, |(_, bits)| core::mem::take(bits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(number: usize) -> MacAddress {
        MacAddress([2, 0, 0, 0, 0, number as u8])
    }

    #[test]
    fn a_debt_is_kept_until_it_is_taken_and_the_largest_outlast_others() {
        let mut debts = Debts::new();
        debts.keep(mac(1), 5);
        debts.keep(mac(1), 6);
        assert_eq!([debts.take(mac(2)), debts.take(mac(1)), debts.take(mac(1))], [0, 11, 0]);
        for number in 0..=MOST {
            debts.keep(mac(number), 1 + number as u64);
        }
        assert_eq!(debts.take(mac(0)), 0, "the least was forgotten");
        assert!((1..=MOST).all(|number| debts.take(mac(number)) == 1 + number as u64));
    }
}
