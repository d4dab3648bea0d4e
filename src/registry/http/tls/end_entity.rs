//! Servers whose certificate is marked as an authority.
//!
//! OpenSSL and Go accept such a certificate from a server if it is signed like any other; webpki refuses it
//! as `CaUsedAsEndEntity`, before anything else is verified. Here webpki verifies a copy without the mark. The
//! copy differs from the certificate in that one byte, and signatures over it are verified over the bytes that
//! were signed. All else stays webpki's: chain, names, time, purpose.

use std::cell::RefCell;
use std::sync::OnceLock;

use rustls::SignatureScheme;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{
    AlgorithmIdentifier, CertificateDer, InvalidSignature, SignatureVerificationAlgorithm,
};

use super::x509::Certificate;

thread_local! {
    /// The copy that this thread verifies; a verifier runs on one thread.
    static UNMARKED: RefCell<Option<Unmarked>> = const { RefCell::new(None) };
}

/// A certificate without the mark of an authority.
struct Unmarked {
    /// The signed part of the copy.
    shown: Vec<u8>,
    /// The signed part of the certificate.
    signed: Vec<u8>,
}

/// Runs `verify` on `certificate`; on a copy without the mark, if it is marked as an authority.
pub(super) fn verified_as_server<T>(
    certificate: &CertificateDer<'_>,
    verify: impl FnOnce(&CertificateDer<'_>) -> T,
) -> T {
    let Some((copy, unmarked)) = unmarked(certificate) else { return verify(certificate) };
    struct Restore(Option<Unmarked>);
    impl Drop for Restore {
        fn drop(&mut self) {
            UNMARKED.set(self.0.take());
        }
    }
    let _restore = Restore(UNMARKED.replace(Some(unmarked)));
    verify(&copy)
}

fn unmarked(certificate: &CertificateDer<'_>) -> Option<(CertificateDer<'static>, Unmarked)> {
    let facts = Certificate::read(certificate)?;
    let (mark, part) = (facts.authority_mark?, facts.signed_part);
    let mut copy = certificate.to_vec();
    // DER's FALSE.
    *copy.get_mut(mark)? = 0;
    let signed = certificate.get(part.clone())?.to_vec();
    let shown = copy.get(part)?.to_vec();
    Some((CertificateDer::from(copy), Unmarked { shown, signed }))
}

type VerificationAlgorithm = &'static dyn SignatureVerificationAlgorithm;

/// Returns `algorithms`, with signatures over the copy of [`verified_as_server`] verified over the certificate's
/// own bytes. They live as long as the process; it always is the same set.
pub(super) fn algorithms(algorithms: fn() -> WebPkiSupportedAlgorithms) -> WebPkiSupportedAlgorithms {
    type Mapping = (SignatureScheme, &'static [VerificationAlgorithm]);
    static ALL: OnceLock<(Vec<VerificationAlgorithm>, Vec<Mapping>)> = OnceLock::new();
    let (all, mapping) = ALL.get_or_init(|| {
        let known = algorithms();
        let wrapped = |algorithm: &VerificationAlgorithm| -> VerificationAlgorithm {
            Box::leak(Box::new(OverSignedBytes(*algorithm)))
        };
        let of_scheme = |(scheme, list): &Mapping| -> Mapping {
            (*scheme, Vec::leak(list.iter().map(wrapped).collect()))
        };
        (known.all.iter().map(wrapped).collect(), known.mapping.iter().map(of_scheme).collect())
    });
    WebPkiSupportedAlgorithms { all, mapping }
}

/// An algorithm that verifies a signature over the bytes that were signed.
#[derive(Debug)]
struct OverSignedBytes(VerificationAlgorithm);

impl SignatureVerificationAlgorithm for OverSignedBytes {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        UNMARKED.with_borrow(|unmarked| {
            let signed = unmarked.as_ref().filter(|unmarked| unmarked.shown == message);
            self.0.verify_signature(
                public_key,
                signed.map_or(message, |unmarked| &unmarked.signed),
                signature,
            )
        })
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.0.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.0.signature_alg_id()
    }
}
