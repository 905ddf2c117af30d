//! How far a long check is, on standard error: a line now and then, which `cargo xtask verify` shows too.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Between two lines.
const PAUSE: Duration = Duration::from_secs(5);

/// Does the work, and says meanwhile how many of `total` it has done so far by its own count.
pub fn shown<T>(what: &str, total: usize, done: &AtomicUsize, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let (end, ended) = channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while ended.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
                let done = done.load(Ordering::Relaxed);
                eprintln!("{} of {} {what}, {} s", thousands(done), thousands(total), start.elapsed().as_secs());
            }
        });
        // Dropped also when the work panics, so that the other thread ends.
        let _end = end;
        work()
    })
}

/// A number as people read it: `1,000,000`.
pub fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at != 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        let shown = [0, 12, 999, 1_000, 123_456, 1_234_567].map(thousands);
        assert_eq!(shown, ["0", "12", "999", "1,000", "123,456", "1,234,567"]);
    }

    #[test]
    fn the_work_is_done_and_waits_for_nothing() {
        let start = Instant::now();
        assert_eq!(shown("steps", 1, &AtomicUsize::new(0), || 7), 7);
        assert!(start.elapsed() < PAUSE, "the progress ends with the work");
    }
}
