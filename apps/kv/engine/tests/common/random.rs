//! Random commands from a seed.

/// A generator of numbers (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ value >> 31
    }

    /// A number below the limit.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    fn number(&mut self) -> String {
        let usual = self.below(40).to_string();
        let odd = ["-1", "x", "", "18446744073709551615", "4294967296", "2147483648", "007", "+3", "1x", "-0"];
        if self.below(8) == 0 { self.pick(&odd).to_owned() } else { usual }
    }

    fn key(&mut self) -> String {
        if self.below(60) == 0 {
            "k".repeat(self.below(300) as usize)
        } else {
            self.pick(&["a", "b", "c", "Zm9v"]).into()
        }
    }

    fn value(&mut self) -> String {
        match self.below(4) {
            0 => self.below(1000).to_string(),
            1 => String::new(),
            2 => "x".repeat(self.below(300) as usize),
            _ => format!("value {}", self.below(10)),
        }
    }

    /// The bytes of a value, now and then too few or too many.
    fn block(&mut self, value: &str) -> String {
        match self.below(40) {
            0 => format!("{value}y\r\n"),
            1 => format!("{value}\n\n\r\n"),
            _ => format!("{value}\r\n"),
        }
    }

    /// Flags of a meta command.
    fn flags(&mut self, of: &[&str]) -> String {
        let mut flags = String::new();
        for _ in 0..self.below(6) {
            let flag = self.pick(of);
            // memcached 1.6.18 forgets that the key of an item that it creates itself was in base64.
            if (flag == "b" && flags.contains('N')) || (flag == "N" && flags.contains('b')) {
                continue;
            }
            flags += " ";
            flags += flag;
            if matches!(flag, "N" | "T" | "R" | "C" | "D" | "J" | "F") {
                // Times to live that don't end while this runs.
                flags += &if matches!(flag, "N" | "T" | "R") && self.below(8) > 0 {
                    self.pick(&["0", "100", "1000", "-1"]).to_owned()
                } else {
                    self.number()
                };
            }
        }
        flags
    }

    /// One command, with its value.
    pub fn command(&mut self) -> Vec<u8> {
        let key = self.key();
        let noreply = if self.below(10) == 0 { " noreply" } else { "" };
        let text = match self.below(20) {
            0..=2 => {
                let (name, value) = (self.pick(&["set", "add", "replace", "append", "prepend"]), self.value());
                let (flags, exptime) = (self.number(), self.pick(&["0", "0", "0", "100", "-1"]));
                format!("{name} {key} {flags} {exptime} {}{noreply}\r\n{}", value.len(), self.block(&value))
            }
            3 => {
                let (value, cas) = (self.value(), self.number());
                format!("cas {key} 1 0 {} {cas}{noreply}\r\n{}", value.len(), self.block(&value))
            }
            4..=6 => {
                let name = self.pick(&["get", "gets"]);
                let keys: Vec<String> = (0..self.below(4)).map(|_| self.key()).collect();
                format!("{name} {}\r\n", keys.join(" "))
            }
            7 => format!("{} {} {key} a\r\n", self.pick(&["gat", "gats"]), self.pick(&["0", "100", "x"])),
            8 => format!("{} {key} {}{noreply}\r\n", self.pick(&["incr", "decr"]), self.number()),
            9 => format!("delete {key}{}{noreply}\r\n", self.pick(&["", "", " 0", " 1"])),
            10 => format!("touch {key} {}{noreply}\r\n", self.pick(&["0", "100", "-1", "x"])),
            11..=13 => {
                let flags =
                    ["b", "c", "f", "h", "k", "l", "Oabc", "q", "s", "t", "v", "v", "v", "N", "R", "T", "u", "y"];
                format!("mg {key}{}\r\n", self.flags(&flags))
            }
            14..=15 => {
                let value = self.value();
                let flags = ["b", "c", "k", "Oxyz", "q", "F", "C", "I", "T", "MS", "ME", "MA", "MP", "MR", "MX", "M"];
                format!("ms {key} {}{}\r\n{}", value.len(), self.flags(&flags), self.block(&value))
            }
            16 => format!("md {key}{}\r\n", self.flags(&["b", "C", "I", "k", "O1", "q", "T", "I"])),
            17 => {
                let flags = ["b", "N", "J", "D", "T", "MI", "MD", "M+", "M-", "q", "t", "c", "v", "k", "O7", "C", "MX"];
                format!("ma {key}{}\r\n", self.flags(&flags))
            }
            18 => format!("me {key}{}\r\n", self.pick(&["", " b", " x"])),
            _ => {
                let others = [
                    "version",
                    "mn",
                    "verbosity 1",
                    "verbosity",
                    "flush_all",
                    "flush_all noreply",
                    "flush_all x",
                    "nope",
                    "",
                    " ",
                    "get",
                    "gat",
                    "set a",
                    "incr a",
                    "touch",
                    "delete",
                    "mg",
                    "ms",
                    "ma",
                    "md",
                    "me",
                    "shutdown",
                    "flush_all 1 2 3",
                    "cache_memlimit",
                    "cache_memlimit x",
                    "cache_memlimit 1",
                    "stats nope",
                    "lru",
                ];
                format!("{}\r\n", self.pick(&others))
            }
        };
        text.into_bytes()
    }
}
