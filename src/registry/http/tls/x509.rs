//! Reads the fields of a certificate that decide how it is trusted
//! ([RFC 5280, section 4.1](https://www.rfc-editor.org/rfc/rfc5280#section-4.1)).

use std::ops::Range;

const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OBJECT: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// `[0]`, the version, and `[3]`, the extensions.
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;

const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
const SERVER_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];
const ANY_USAGE: &[u8] = &[0x55, 0x1d, 0x25, 0x00];

/// The fields of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Certificate {
    /// Whether it may sign others: by its basic constraints, or because its version is older than these.
    pub(super) is_authority: bool,
    /// The offset of the byte that marks it as an authority, if it is marked.
    pub(super) authority_mark: Option<usize>,
    /// The offsets of the part that its issuer has signed.
    pub(super) signed_part: Range<usize>,
    /// Whether a server may use it.
    pub(super) is_for_servers: bool,
    /// The first and the last second that it is valid, since 1970.
    pub(super) not_before: i64,
    pub(super) not_after: i64,
}

impl Certificate {
    /// Reads a certificate; `None` for one that is malformed.
    pub(super) fn read(der: &[u8]) -> Option<Self> {
        let mut whole = DerReader { rest: der, at: 0 };
        let mut outer = whole.element(SEQUENCE)?;
        let signed_from = outer.at;
        let mut fields = outer.element(SEQUENCE)?;
        let signed_part = signed_from..outer.at;
        let version = match fields.optional(VERSION) {
            Some(mut version) => *version.element(INTEGER)?.rest.first()?,
            None => 0,
        };
        fields.element(INTEGER)?;
        fields.element(SEQUENCE)?;
        fields.element(SEQUENCE)?;
        let mut validity = fields.element(SEQUENCE)?;
        let (not_before, not_after) = (validity.time()?, validity.time()?);
        fields.element(SEQUENCE)?;
        fields.element(SEQUENCE)?;
        let mut certificate = Certificate {
            // Version 3 has extensions.
            is_authority: version < 2,
            authority_mark: None,
            signed_part,
            is_for_servers: true,
            not_before,
            not_after,
        };
        while let Some((tag, mut content)) = fields.any() {
            if tag == EXTENSIONS {
                certificate.read_extensions(content.element(SEQUENCE)?)?;
            }
        }
        Some(certificate)
    }

    fn read_extensions(&mut self, mut extensions: DerReader<'_>) -> Option<()> {
        while let Some(mut extension) = extensions.optional(SEQUENCE) {
            let id = extension.element(OBJECT)?.rest;
            extension.optional(BOOLEAN);
            let mut value = extension.element(OCTET_STRING)?;
            if id == BASIC_CONSTRAINTS {
                let mark = value.element(SEQUENCE)?.optional(BOOLEAN).filter(|mark| mark.rest != [0]);
                self.is_authority = mark.is_some();
                self.authority_mark = mark.filter(|mark| mark.rest.len() == 1).map(|mark| mark.at);
            } else if id == EXTENDED_KEY_USAGE {
                let mut usages = value.element(SEQUENCE)?;
                self.is_for_servers = std::iter::from_fn(|| usages.optional(OBJECT))
                    .any(|usage| usage.rest == SERVER_AUTH || usage.rest == ANY_USAGE);
            }
        }
        Some(())
    }
}

/// Reads elements of DER, one after the other.
struct DerReader<'a> {
    rest: &'a [u8],
    /// The offset of `rest` in the certificate.
    at: usize,
}

impl<'a> DerReader<'a> {
    /// Returns the content of the next element, which has this tag.
    fn element(&mut self, tag: u8) -> Option<Self> {
        self.optional(tag)
    }

    /// Returns the content of the next element if it has this tag; else leaves it.
    fn optional(&mut self, tag: u8) -> Option<Self> {
        (self.rest.first() == Some(&tag)).then(|| self.any())?.map(|(_, content)| content)
    }

    /// Returns tag and content of the next element; `None` at the end, or if it is malformed.
    fn any(&mut self) -> Option<(u8, Self)> {
        let (&tag, rest) = self.rest.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (bytes.iter().fold(0, |length, &byte| length << 8 | usize::from(byte)), rest)
            }
            _ => return None,
        };
        let content_at = self.at + (self.rest.len() - rest.len());
        let (content, rest) = rest.split_at_checked(length)?;
        *self = DerReader { rest, at: content_at + length };
        Some((tag, DerReader { rest: content, at: content_at }))
    }

    /// Reads `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`.
    fn time(&mut self) -> Option<i64> {
        let (tag, DerReader { rest: text, .. }) = self.any()?;
        let (year, rest) = match tag {
            UTC_TIME => {
                let (year, rest) = number(text, 2)?;
                (if year < 50 { 2000 + year } else { 1900 + year }, rest)
            }
            GENERALIZED_TIME => number(text, 4)?,
            _ => return None,
        };
        let (month, rest) = number(rest, 2)?;
        let (day, rest) = number(rest, 2)?;
        let (hour, rest) = number(rest, 2)?;
        let (minute, rest) = number(rest, 2)?;
        let (second, rest) = number(rest, 2)?;
        let is_date = (1..=12).contains(&month) && (1..=31).contains(&day);
        let is_time = hour < 24 && minute < 60 && second < 61 && rest == b"Z";
        (is_date && is_time).then(|| ((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second)
    }
}

fn number(text: &[u8], digits: usize) -> Option<(i64, &[u8])> {
    let (number, rest) = text.split_at_checked(digits)?;
    let is_number = number.iter().all(u8::is_ascii_digit);
    is_number.then(|| (number.iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0')), rest))
}

/// Returns the days since 1970-01-01, of the Gregorian calendar; years are counted from March, so that
/// the leap day is the last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let in_year = (153 * month + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + in_year - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd};

    use super::*;

    fn made(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["r.example".to_owned()]).unwrap();
        change(&mut params);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn authority_and_purpose_are_read() {
        let leaf = Certificate::read(&made(|_| {})).unwrap();
        assert!(!leaf.is_authority && leaf.is_for_servers);
        for (constraints, is_authority) in [
            (IsCa::Ca(BasicConstraints::Unconstrained), true),
            (IsCa::Ca(BasicConstraints::Constrained(0)), true),
            (IsCa::ExplicitNoCa, false),
            (IsCa::NoCa, false),
        ] {
            let der = made(|params| params.is_ca = constraints);
            assert_eq!(Certificate::read(&der).unwrap().is_authority, is_authority);
        }
        for (usages, is_for_servers) in [
            (vec![ExtendedKeyUsagePurpose::ServerAuth], true),
            (vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth], true),
            (vec![ExtendedKeyUsagePurpose::Any], true),
            (vec![ExtendedKeyUsagePurpose::ClientAuth], false),
        ] {
            let der = made(|params| params.extended_key_usages = usages);
            assert_eq!(Certificate::read(&der).unwrap().is_for_servers, is_for_servers);
        }
    }

    #[test]
    fn validity_is_read_in_both_forms() {
        let cases = [(1970, 1, 1, 0), (2000, 2, 29, 951_782_400), (2049, 12, 31, 2_524_521_600)];
        for (year, month, day, seconds) in
            cases.into_iter().chain([(2050, 1, 1, 2_524_608_000), (2400, 3, 1, 13_574_649_600)])
        {
            let der = made(|params| {
                params.not_before = date_time_ymd(year, month, day);
                params.not_after = date_time_ymd(4000, 1, 1);
            });
            assert_eq!(Certificate::read(&der).unwrap().not_before, seconds, "{year}-{month}-{day}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in any::<Vec<u8>>(), at in any::<prop::sample::Index>(), flip in any::<u8>()) {
            let _ = Certificate::read(&bytes);
            let mut der = made(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
            let at = at.index(der.len());
            der[at] ^= flip;
            let _ = Certificate::read(&der);
            let _ = Certificate::read(&der[..at]);
        }
    }
}
