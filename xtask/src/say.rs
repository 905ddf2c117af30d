//! What commands print. A closed pipe (`cargo xtask run | head`) is no reason to stop: nobody reads any more, but what was
//! begun is carried through, its results are written, and the exit status is the command's own.

/// As `println!`, but a closed pipe is nothing to panic about.
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => { $crate::say::line(&mut std::io::stdout(), format_args!($($text)*)) };
}

/// As `eprintln!`, likewise.
#[macro_export]
macro_rules! tell {
    ($($text:tt)*) => { $crate::say::line(&mut std::io::stderr(), format_args!($($text)*)) };
}

/// Writes a line to whoever still reads.
pub fn line(out: &mut impl std::io::Write, text: std::fmt::Arguments<'_>) {
    let _ = writeln!(out, "{text}");
}
