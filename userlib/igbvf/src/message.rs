//! The mailbox protocol between a VF and its PF: what a VF may ask, in the words that Intel's drivers use, so that either
//! side could be somebody else's driver.
//!
//! A message is up to 16 words in a buffer that both can write at any time; it is read once, by value, and anything can
//! stand in it. The first word is the kind of the request in bits 15:0, a count or flag in bits 23:16, and in an answer
//! one of [`ACCEPTED`] and [`REFUSED`].

/// Words of the mailbox buffer.
pub const WORDS: usize = 16;
/// A message.
pub type Message = [u32; WORDS];

/// Bit of an answer: done.
pub const ACCEPTED: u32 = 1 << 31;
/// Bit of an answer: not done.
pub const REFUSED: u32 = 1 << 30;
/// Bit of an answer: further requests will be considered; missing until the VF has been reset.
pub const CLEAR_TO_SEND: u32 = 1 << 29;
/// The kind of a message from the PF that answers nothing: look at the link, reset the function.
pub const CONTROL: u32 = 0x100;

const KIND: u32 = 0xffff;
const INFO_SHIFT: u32 = 16;
const INFO: u32 = 0xff;

const RESET: u32 = 1;
const SET_MAC: u32 = 2;
const SET_MULTICAST: u32 = 3;
const SET_VLAN: u32 = 4;
const SET_MAX_FRAME: u32 = 5;

/// Hashes that fit into one message.
pub const MAX_MULTICAST: usize = 2 * (WORDS - 1);
/// The largest VLAN number.
pub const MAX_VLAN: u16 = 0xfff;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// True if a station may have it: not of a group, and not zero.
    #[must_use]
    pub fn is_station(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }

    /// The two words in which registers and messages hold it.
    #[must_use]
    pub const fn words(self) -> [u32; 2] {
        let [a, b, c, d, e, f] = self.0;
        [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, 0, 0])]
    }

    /// The reverse of [`MacAddress::words`]; the upper half of the second word is ignored.
    #[must_use]
    pub const fn from_words(words: [u32; 2]) -> MacAddress {
        let ([a, b, c, d], [e, f, _, _]) = (words[0].to_le_bytes(), words[1].to_le_bytes());
        MacAddress([a, b, c, d, e, f])
    }

    /// The 12 bits by which the device's multicast table is looked up, with RCTL.MO = 0 (datasheet, 7.1.2.2.2).
    #[must_use]
    pub const fn multicast_hash(self) -> u16 {
        (((self.0[5] as u16) << 8) | self.0[4] as u16) >> 4
    }
}

/// Group addresses by their hashes; at most [`MAX_MULTICAST`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Multicast {
    hashes: [u16; MAX_MULTICAST],
    count: u8,
}

impl Multicast {
    /// None.
    pub const NONE: Multicast = Multicast { hashes: [0; MAX_MULTICAST], count: 0 };

    /// These addresses; `None` if they are too many.
    #[must_use]
    pub fn of(addresses: &[MacAddress]) -> Option<Multicast> {
        let mut multicast = Multicast::NONE;
        for address in addresses {
            *multicast.hashes.get_mut(usize::from(multicast.count))? = address.multicast_hash();
            multicast.count += 1;
        }
        Some(multicast)
    }

    /// Their hashes.
    #[must_use]
    pub fn hashes(&self) -> &[u16] {
        self.hashes.get(..usize::from(self.count)).unwrap_or_default()
    }
}

/// What a VF asks of its PF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// To begin anew. The answer has the VF's address.
    Reset,
    /// To receive and send with this address.
    SetMac(MacAddress),
    /// To receive these groups, and no others.
    SetMulticast(Multicast),
    /// To belong to a VLAN, or no longer.
    SetVlan {
        /// Its number, 0 to [`MAX_VLAN`].
        vlan: u16,
        /// Whether to belong.
        member: bool,
    },
    /// To receive frames of up to so many bytes, with header and checksum.
    SetMaxFrame(u32),
    /// Something else, by its first word. It is refused.
    Unknown(u32),
}

impl Request {
    /// The message; unused words are 0.
    #[must_use]
    pub fn encode(&self) -> Message {
        let mut message = [0; WORDS];
        let [first, second, third, ..] = &mut message;
        match self {
            Request::Reset => *first = RESET,
            Request::SetMac(mac) => {
                *first = SET_MAC;
                [*second, *third] = mac.words();
            }
            Request::SetMulticast(multicast) => {
                *first = SET_MULTICAST | u32::from(multicast.count) << INFO_SHIFT;
                for (word, pair) in message.iter_mut().skip(1).zip(multicast.hashes.chunks_exact(2)) {
                    *word = pair.iter().rev().fold(0, |word, &hash| word << 16 | u32::from(hash));
                }
            }
            Request::SetVlan { vlan, member } => {
                *first = SET_VLAN | u32::from(*member) << INFO_SHIFT;
                *second = u32::from(*vlan);
            }
            Request::SetMaxFrame(bytes) => {
                *first = SET_MAX_FRAME;
                *second = *bytes;
            }
            Request::Unknown(word) => *first = *word,
        }
        message
    }

    /// What a message asks, whatever it holds.
    #[must_use]
    pub fn decode(message: &Message) -> Request {
        let [first, second, third, ..] = *message;
        let info = first >> INFO_SHIFT & INFO;
        match first & KIND {
            RESET => Request::Reset,
            SET_MAC if info == 0 => Request::SetMac(MacAddress::from_words([second, third])),
            SET_MULTICAST => {
                let mut multicast = Multicast::NONE;
                for (pair, word) in multicast.hashes.chunks_exact_mut(2).zip(message.iter().skip(1)) {
                    for (half, hash) in pair.iter_mut().enumerate() {
                        *hash = (word >> (16 * half)) as u16;
                    }
                }
                // More than a message can hold is what it does hold, as Intel's driver of the PF takes it.
                multicast.count = info.min(MAX_MULTICAST as u32) as u8;
                Request::SetMulticast(multicast)
            }
            SET_VLAN => Request::SetVlan { vlan: second as u16 & MAX_VLAN, member: info != 0 },
            SET_MAX_FRAME => Request::SetMaxFrame(second),
            _ => Request::Unknown(first),
        }
    }
}

/// The answer to the request whose first word this was: accepted or refused, with an address for [`Request::Reset`].
#[must_use]
pub fn answer(first: u32, accepted: bool, mac: Option<MacAddress>) -> Message {
    let mut message = [0; WORDS];
    let [head, low, high, ..] = &mut message;
    *head = first & !(ACCEPTED | REFUSED) | CLEAR_TO_SEND | if accepted { ACCEPTED } else { REFUSED };
    if let Some(mac) = mac {
        [*low, *high] = mac.words();
    }
    message
}

/// True if this message answers the request whose first word that was. The count or flag need not come back.
#[must_use]
pub fn answers(message: &Message, first: u32) -> bool {
    let [head, ..] = *message;
    head & KIND == first & KIND && head & (ACCEPTED | REFUSED) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddress = MacAddress([2, 4, 6, 8, 10, 12]);

    #[test]
    fn every_request_comes_out_as_it_went_in() {
        let groups: [MacAddress; 3] = core::array::from_fn(|n| MacAddress([1, 0, 0x5e, 0, n as u8, 0x80 + n as u8]));
        let requests = [
            Request::Reset,
            Request::SetMac(MAC),
            Request::SetMulticast(Multicast::NONE),
            Request::SetMulticast(Multicast::of(&groups).unwrap()),
            Request::SetMulticast(Multicast::of(&[MAC; MAX_MULTICAST]).unwrap()),
            Request::SetVlan { vlan: 5, member: true },
            Request::SetVlan { vlan: MAX_VLAN, member: false },
            Request::SetMaxFrame(9018),
            Request::Unknown(0x77),
        ];
        for request in requests {
            assert_eq!(Request::decode(&request.encode()), request);
        }
        assert_eq!(Multicast::of(&[MAC; MAX_MULTICAST + 1]), None);
    }

    #[test]
    fn a_count_beyond_the_message_is_cut() {
        let Request::SetMulticast(multicast) = Request::decode(&[3 | 0xff << 16; WORDS]) else { panic!() };
        assert_eq!(multicast.hashes().len(), MAX_MULTICAST);
    }

    #[test]
    fn an_answer_fits_its_request_only() {
        let (mac, vlan) = (2, 4 | 1 << 16);
        assert!(answers(&answer(mac, true, None), mac) && answers(&answer(vlan, false, None), vlan));
        assert!(!answers(&answer(mac, true, None), vlan));
        assert!(!answers(&[mac; WORDS], mac), "a request is no answer");
        let [head, low, high, ..] = answer(1, true, Some(MAC));
        assert_eq!((head, MacAddress::from_words([low, high])), (1 | ACCEPTED | CLEAR_TO_SEND, MAC));
    }
}
