use super::*;
use proto::host::Command;
use std::string::ToString;
use std::vec;

fn console() -> Console {
    let mut console = Console::new(["market", "a", "b"].map(String::from), 1_000_000);
    send(&mut console, 0, &ToConsole::Epoch { tsc: 1_000 }, 1_000);
    console
}

fn send(console: &mut Console, client: usize, message: &ToConsole, now: u64) -> Effect {
    console.take(client, &postcard::to_allocvec(message).unwrap(), now)
}

fn text(console: &mut Console) -> String {
    String::from_utf8(console.text().drain(..).collect()).unwrap()
}

fn records(console: &mut Console) -> Vec<Record> {
    let mut reader = frame::Reader::new();
    let bytes: Vec<u8> = console.frames().drain(..).collect();
    reader.push(&bytes);
    core::iter::from_fn(|| reader.next_message()).collect()
}

#[test]
fn lines_of_several_clients_never_mix() {
    let mut console = console();
    for (client, part) in [(1, "one "), (2, "two\nthree "), (1, "more\n"), (2, "end\n"), (1, "open")] {
        assert_eq!(send(&mut console, client, &ToConsole::Text(part.to_string()), 3_500), Effect::Nothing);
    }
    assert_eq!(text(&mut console), "[b] two\r\n[a] one more\r\n[b] three end\r\n");
    let lines = records(&mut console);
    assert_eq!(lines[0], Record::Line { t: 2_500, app: 1, text: "two".into() });
    assert_eq!(lines.len(), 3);
    assert_eq!(send(&mut console, 0, &ToConsole::PowerOff { value: 16 }, 4_000), Effect::PowerOff(16));
    assert_eq!(text(&mut console), "[a] open\r\n", "what was begun is shown at the end");
}

#[test]
fn a_line_is_bounded_and_cannot_move_the_cursor() {
    let mut console = console();
    let long = "x".repeat(2 * MAX_LINE) + "\u{1b}[2J\u{7}\rtail\n";
    send(&mut console, 1, &ToConsole::Text(long), 1_000);
    let text = text(&mut console);
    assert_eq!(text.lines().count(), 3);
    assert!(text.ends_with("[a] .[2J.tail\r\n"));
    assert!(text.lines().all(|line| line.len() <= MAX_LINE + 8));
}

#[test]
fn a_file_ends_with_its_length_and_hash() {
    let mut console = console();
    send(&mut console, 2, &ToConsole::FileBegin { file: 7, name: "out.txt".into() }, 0);
    send(&mut console, 2, &ToConsole::FileData { file: 7, data: b"ab".to_vec() }, 0);
    send(&mut console, 2, &ToConsole::FileData { file: 7, data: b"c".to_vec() }, 0);
    let done = send(&mut console, 2, &ToConsole::FileEnd { file: 7 }, 0);
    assert_eq!(done, Effect::Answer(FromConsole::FileDone { file: 7 }));
    let records = records(&mut console);
    assert_eq!(records[0], Record::FileBegin { app: 1, file: 7, name: "out.txt".into() });
    let Record::FileEnd { app: 1, file: 7, bytes: 3, sha256 } = records[3] else { panic!("{records:?}") };
    // FIPS 180-2, the example "abc".
    assert_eq!(sha256[..4], [0xba, 0x78, 0x16, 0xbf]);
    assert_eq!(sha256[28..], [0xf2, 0x00, 0x15, 0xad]);
}

#[test]
fn wrong_files_are_refused_and_told() {
    let mut console = console();
    let long = "x".repeat(MAX_NAME + 1);
    for name in ["", "../x", "a/b", ".hidden", "a\nb", "a+b", &long] {
        send(&mut console, 1, &ToConsole::FileBegin { file: 1, name: name.into() }, 0);
    }
    send(&mut console, 1, &ToConsole::FileData { file: 1, data: vec![0] }, 0);
    send(&mut console, 1, &ToConsole::FileEnd { file: 1 }, 0);
    assert!(records(&mut console).iter().all(|record| matches!(record, Record::Line { app: 0, .. })));
    for file in 0..=MAX_OPEN as u16 {
        send(&mut console, 1, &ToConsole::FileBegin { file, name: "f".into() }, 0);
    }
    let begun = records(&mut console).into_iter().filter(|record| matches!(record, Record::FileBegin { .. }));
    assert_eq!(begun.count(), MAX_OPEN);
}

#[test]
fn only_the_market_sends_records_and_powers_off() {
    let mut console = console();
    let end = Record::End { t: 0, status: 0, reason: String::new() };
    assert_eq!(send(&mut console, 1, &ToConsole::Record(end.clone()), 0), Effect::Nothing);
    assert_eq!(send(&mut console, 1, &ToConsole::PowerOff { value: 16 }, 0), Effect::Nothing);
    assert!(records(&mut console).iter().all(|record| matches!(record, Record::Line { app: 0, .. })));
    send(&mut console, 0, &ToConsole::Record(end.clone()), 0);
    assert_eq!(records(&mut console), vec![end]);
}

#[test]
fn garbage_is_told_under_the_name_of_who_sent_it() {
    let mut console = console();
    assert_eq!(console.take(2, &[0xff; 40], 0), Effect::Nothing);
    assert!(text(&mut console).starts_with("[b] (console: sent what is no message)"));
}

#[test]
fn commands_arrive_through_damage() {
    let mut console = console();
    let frame = frame::encode(&Command::Kill { app: 1 }).unwrap();
    assert!(console.received(b"noise N").is_empty());
    assert!(console.received(&frame[..5]).is_empty());
    assert_eq!(console.received(&frame[5..]), vec![FromConsole::Command(Command::Kill { app: 1 })]);
}
