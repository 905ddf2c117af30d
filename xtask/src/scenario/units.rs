//! What people write and what the plan holds: durations, memory sizes, amounts of credits.

use market_mechanism::Credits;

/// Milliseconds of `5 s`, `500ms` or `2 min`. Whole milliseconds only.
///
/// # Errors
/// The reason.
pub fn milliseconds(text: &str) -> Result<u64, String> {
    let (number, unit) = number_and_unit(text);
    let per_unit = match unit {
        "ms" => 1,
        "s" => 1000,
        "min" => 60_000,
        _ => return Err(format!("`{text}` is no duration; write for instance 500 ms, 2.5 s or 1 min")),
    };
    scaled(number, per_unit).ok_or_else(|| format!("`{text}` is no whole number of milliseconds"))
}

/// Milliseconds as [`milliseconds`] reads them.
pub fn duration(ms: u64) -> String {
    if ms.is_multiple_of(1000) { format!("{}s", ms / 1000) } else { format!("{ms}ms") }
}

/// Bytes of `512 MiB`, `64 KiB` or `1 GiB`.
///
/// # Errors
/// The reason.
pub fn bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = number_and_unit(text);
    let per_unit = match unit {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(format!("`{text}` is no size; write for instance 64 KiB, 512 MiB or 1 GiB")),
    };
    scaled(number, per_unit).ok_or_else(|| format!("`{text}` is no whole number of bytes"))
}

/// Credits, exactly as written; an exponent is allowed.
///
/// # Errors
/// The reason.
pub fn credits(text: &str) -> Result<Credits, String> {
    let plain = without_exponent(text).ok_or_else(|| format!("`{text}` is no amount of credits"))?;
    plain.parse::<Credits>().map_err(|error| format!("`{text}` is no amount of credits: {error}"))
}

/// `1.5e-3` as `0.0015`: moves the point, so that nothing is rounded.
fn without_exponent(text: &str) -> Option<String> {
    let text = text.replace('_', "");
    let text = text.strip_prefix('+').unwrap_or(&text);
    let Some((mantissa, exponent)) = text.split_once(['e', 'E']) else { return Some(text.to_string()) };
    let exponent: i32 = exponent.parse().ok().filter(|exponent: &i32| exponent.abs() <= 60)?;
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", mantissa),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    // Where the point stands, counted from the first digit.
    let point = whole.len() as i32 + exponent;
    let (whole, fraction) = if point <= 0 {
        ("0".to_string(), format!("{}{digits}", "0".repeat(point.unsigned_abs() as usize)))
    } else if point as usize >= digits.len() {
        (format!("{digits}{}", "0".repeat(point as usize - digits.len())), String::new())
    } else {
        let (whole, fraction) = digits.split_at(point as usize);
        (whole.to_string(), fraction.to_string())
    };
    let fraction = fraction.trim_end_matches('0');
    Some(if fraction.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") })
}

fn number_and_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_').unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

/// `number` times `per_unit`, if it is whole and fits.
fn scaled(number: &str, per_unit: u64) -> Option<u64> {
    let number = number.replace('_', "");
    let (whole, fraction) = number.split_once('.').unwrap_or((&number, ""));
    let whole: u64 = if whole.is_empty() { return None } else { whole.parse().ok()? };
    if fraction.len() > 9 {
        return None;
    }
    let divisor = 10u64.pow(fraction.len() as u32);
    let part: u64 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let scaled = part.checked_mul(per_unit)?;
    if scaled % divisor != 0 {
        return None;
    }
    whole.checked_mul(per_unit)?.checked_add(scaled / divisor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes() {
        assert_eq!(milliseconds("5 s"), Ok(5000));
        assert_eq!(milliseconds("2.5s"), Ok(2500));
        assert_eq!(milliseconds("100ms"), Ok(100));
        assert_eq!(milliseconds("1 min"), Ok(60_000));
        for wrong in ["5", "s", "1.5 ms", "-1 s", "5 h", "", "1e3 s", "99999999999999999999 s"] {
            assert!(milliseconds(wrong).is_err(), "{wrong}");
        }
        assert_eq!(bytes("512 MiB"), Ok(512 << 20));
        assert_eq!(bytes("0.5 GiB"), Ok(512 << 20));
        assert!(bytes("512 MB").is_err() && bytes("0.3 KiB").is_err());
    }

    #[test]
    fn amounts_are_exact() {
        assert_eq!(credits("0.000000000000001"), Ok(Credits(1)));
        assert_eq!(credits("1e-15"), Ok(Credits(1)));
        assert_eq!(credits("2.5e-9"), Ok(Credits(2_500_000)));
        assert_eq!(credits("1.5e1"), Ok(Credits(15 * Credits::ONE.0)));
        assert_eq!(credits("12.25E1"), credits("122.5"));
        assert_eq!(credits("1_000"), Ok(Credits(1000 * Credits::ONE.0)));
        assert_eq!(credits("-1"), Ok(Credits(-Credits::ONE.0)));
        for wrong in ["", "x", "1e-16", "1e", "nan", "inf", "1e99", "0.0000000000000001"] {
            assert!(credits(wrong).is_err(), "{wrong}");
        }
    }
}
