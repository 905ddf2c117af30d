//! Flags of meta commands that came after memcached 1.6.18, so there is no recording of them. What is expected is what
//! a port of memcached 1.6.42 does (proto_parser.c, `do_store_item` in memcached.c).

mod common;

use common::{Client, store};
use kv_engine::Connection;

impl Client {
    fn new(pages: usize) -> Client {
        let mut store = store(pages);
        let connection = Connection::new(&mut store);
        Client { store, connection, second: 0 }
    }

    /// Asks one request after the other, and compares the answers, of which the last line has no end here.
    fn expect(&mut self, exchanges: &[(&str, &str)]) {
        for (request, answer) in exchanges {
            let got = self.ask(request);
            assert_eq!(got.strip_suffix("\r\n").unwrap_or(&got), *answer, "{request}");
        }
    }
}

#[test]
fn an_item_gets_the_cas_that_was_asked_for() {
    Client::new(8).expect(&[
        ("ms a 1 E100 c\r\nx", "HD c100"),
        ("ms a 1 C100 E200 c\r\nx", "HD c200"),
        ("ms a 1 C100 E300 c\r\nx", "EX c0"),
        ("ms a 1 MA E300 c\r\nx", "HD c300"),
        ("ms a 1 MP N0 E301 c\r\nx", "HD c301"),
        ("ms a 1 MR E302 c\r\nx", "HD c302"),
        ("ms new 1 ME E303 c\r\nx", "HD c303"),
        ("ms vivified 1 MA N0 E304 c\r\nx", "HD c304"),
        ("mg a c", "HD c302"),
        ("md a I E400", "HD"),
        ("mg a c", "HD c400 X W"),
        ("set n 0 0 1\r\n5", "STORED"),
        ("ma n E500 c v", "VA 1 c500\r\n6"),
        ("ma n D1000 E501 c v", "VA 4 c501\r\n1006"),
        ("ma n q E502", ""),
        ("mg n c v", "VA 4 c502\r\n1007"),
        ("ma made N0 J7 E600 c v", "VA 1 c600\r\n7"),
        ("mg made c v", "VA 1 c600\r\n7"),
        ("mg vivid N30 E700 c t", "HD c700 t30 W"),
        ("mg vivid c", "HD c700 Z"),
        // It goes to new values, not to new times.
        ("mg vivid N30 T60 E800 c t", "HD c700 t60 Z"),
        ("ms a 1 Ex\r\nx", "CLIENT_ERROR bad token in command line format"),
        // Those that are given in turn go on: `n` had the first.
        ("ms a 1 c\r\nx", "HD c2"),
        ("ms a 1 E0 c\r\nx", "HD c3"),
    ]);
}

#[test]
fn set_returns_the_size_of_what_is_stored() {
    let mut client = Client::new(64);
    client.expect(&[
        ("ms a 3 s\r\nabc", "HD s3"),
        ("ms a 2 s MA\r\nde", "HD s5"),
        ("ms a 1 k s O1 c MP\r\nx", "HD ka s6 O1 c3"),
        ("mg a s v", "VA 6 s6\r\nxabcde"),
        ("ms Zm9v 0 c s b k\r\n", "HD c4 s0 kZm9v b"),
        ("ms a 1 s q\r\nx", ""),
        // What is not stored has the size of what came.
        ("ms a 2 s ME\r\nxy", "NS s2"),
        ("ms a 2 s q C77\r\nxy", "EX s2"),
        ("ms nope 2 s MA\r\nxy", "NS s2"),
        ("ms nope 2 s C1\r\nxy", "NF s2"),
    ]);
    let (first, second) = ("x".repeat(9000), "y".repeat(20000));
    client.expect(&[
        (&format!("ms large 9000 s\r\n{first}"), "HD s9000"),
        (&format!("ms large 20000 MA s\r\n{second}"), "HD s29000"),
        ("mg large s", "HD s29000"),
    ]);
}

#[test]
fn appending_makes_the_item_that_is_missing() {
    let mut client = Client::new(8);
    client.expect(&[
        ("ms a 1 MA N30 T90 F7\r\nb", "HD"),
        ("mg a v t f", "VA 1 t30 f7\r\nb"),
        // One that is there keeps what it has.
        ("ms a 1 MA N60 T90 F8\r\nc", "HD"),
        ("ms a 1 MP N60 F9\r\na", "HD"),
        ("mg a v t f", "VA 3 t30 f7\r\nabc"),
        ("ms p 1 MP N0 s\r\nx", "HD s1"),
        ("mg p v t", "VA 1 t-1\r\nx"),
        // A CAS is compared with what is there.
        ("ms p 1 MA N0 C77\r\ny", "EX"),
        ("ms c 1 MA N0 C77\r\nx", "HD"),
        // In other modes it means nothing.
        ("ms s 1 N30\r\nx", "HD"),
        ("mg s t", "HD t-1"),
        ("ms nope 1 MR N30\r\nx", "NS"),
        ("ms nope 1 MA\r\nx", "NS"),
        ("ms nope 1 MA Nx\r\nx", "CLIENT_ERROR bad token in command line format"),
        ("ms nope 1 MA N-1\r\nx", "HD"),
        ("mg nope", "EN"),
    ]);
    client.second = 31;
    client.expect(&[("ms a 1 MA N30\r\nz", "HD"), ("mg a v t f", "VA 1 t30 f0\r\nz")]);
}

#[test]
fn delete_can_remove_the_value_alone() {
    let mut client = Client::new(64);
    client.expect(&[
        ("set a 7 100 3\r\nabc", "STORED"),
        ("md a x k O1", "HD ka O1"),
        // As in memcached it does not expire any more, unless that is asked for.
        ("mg a v s f c t", "VA 0 s0 f0 c1 t-1\r\n"),
        ("get a", "VALUE a 0 0\r\n\r\nEND"),
        ("md a x T30 F5 q", ""),
        ("mg a s f c t", "HD s0 f5 c1 t30"),
        ("md a x E9", "HD"),
        ("mg a c", "HD c9"),
        ("md a x C8", "EX"),
        ("md nope x", "NF"),
        ("ms a 3 C9\r\nabc", "HD"),
        ("md a x I T60", "HD"),
        ("mg a v c t", "VA 0 c3 t60 X W\r\n"),
        ("md a x I E12", "HD"),
        ("mg a c", "HD c12 X W"),
        ("mg a", "HD Z X"),
        ("md a x", "HD"),
        ("mg a", "HD"),
        ("ms Zm9v 1 b\r\nx", "HD"),
        ("md Zm9v x b", "HD"),
        ("mg Zm9v k b", "HD kZm9v b"),
        // Others take no notice.
        ("ms b 1 x s\r\nx", "HD s1"),
        ("mg b x v", "VA 1\r\nx"),
        ("md b xx", "HD"),
        ("mg b v", "VA 0\r\n"),
    ]);
    // Stale ones do not count as deleted, as without `x`.
    assert_eq!((client.store.totals().delete_hits, client.store.counters().delete_misses), (6, 2));
    let free = client.store.pages_free();
    let value = "x".repeat(20000);
    client.expect(&[(&format!("set large 0 0 20000\r\n{value}"), "STORED"), ("md large x", "HD")]);
    assert_eq!(client.store.pages_free(), free);
}

#[test]
fn a_value_is_removed_without_memory_for_anything_else() {
    let mut client = Client::new(1);
    let value = "x".repeat(4000);
    client.expect(&[
        (&format!("set a 7 0 4000\r\n{value}"), "STORED"),
        ("md a x", "HD"),
        ("mg a v f c", "VA 0 f0 c1\r\n"),
    ]);
}
