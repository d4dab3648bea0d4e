//! Numbers with units.

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// `1.5 MiB`, `256 KiB`.
pub(crate) fn bytes_for_people(bytes: u64) -> String {
    match bytes {
        MIB.. => format!("{} MiB", rounded(bytes as f64 / MIB as f64)),
        _ => format!("{} KiB", rounded(bytes as f64 / KIB as f64)),
    }
}

/// One decimal, unless it is 0.
fn rounded(number: f64) -> String {
    let text = format!("{number:.1}");
    text.strip_suffix(".0").unwrap_or(&text).to_owned()
}

/// Three decimals below a second, two above.
pub(crate) fn seconds(seconds: f64) -> String {
    if seconds < 1.0 { format!("{seconds:.3}") } else { format!("{seconds:.2}") }
}

/// Millions of bytes, one decimal.
pub(crate) fn megabytes(bytes: f64) -> String {
    format!("{:.1}", bytes / 1e6)
}

/// How many times as much; two decimals below ten.
pub(crate) fn ratio(ratio: f64) -> String {
    if ratio < 10.0 { format!("{ratio:.2} ×") } else { format!("{ratio:.0} ×") }
}

/// The middle one; between the middle two where there is none.
pub(crate) fn median(numbers: impl IntoIterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.into_iter().collect();
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    match numbers.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => numbers[middle],
        _ => (numbers[middle - 1] + numbers[middle]) / 2.0,
    }
}
