//! ECDSA that ring lacks, and OpenSSL and Go have: P-521, and the smaller curves with SHA-512. It verifies signatures
//! of certificates and handshakes.

use std::sync::LazyLock;

use ecdsa::signature::hazmat::PrehashVerifier as _;
use rustls::SignatureScheme;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, alg_id};
use sha2::{Digest as _, Sha256, Sha384, Sha512};

type SignatureAlgorithm = &'static dyn SignatureVerificationAlgorithm;

/// The algorithms of a signature scheme.
type Mapping = (SignatureScheme, &'static [SignatureAlgorithm]);

/// By scheme, which names the hash in TLS 1.2, and also the curve in TLS 1.3.
static ADDED: [(SignatureScheme, SignatureAlgorithm); 5] = [
    (SignatureScheme::ECDSA_NISTP521_SHA512, &Ecdsa { curve: &P521, hash: &SHA512 }),
    (SignatureScheme::ECDSA_NISTP384_SHA384, &Ecdsa { curve: &P521, hash: &SHA384 }),
    (SignatureScheme::ECDSA_NISTP256_SHA256, &Ecdsa { curve: &P521, hash: &SHA256 }),
    (SignatureScheme::ECDSA_NISTP521_SHA512, &Ecdsa { curve: &P384, hash: &SHA512 }),
    (SignatureScheme::ECDSA_NISTP521_SHA512, &Ecdsa { curve: &P256, hash: &SHA512 }),
];

/// Returns the algorithms of ring and those of this file. They live as long as the process.
pub(super) fn algorithms() -> WebPkiSupportedAlgorithms {
    static ALL: LazyLock<(Vec<SignatureAlgorithm>, Vec<Mapping>)> = LazyLock::new(|| {
        let ring = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        let all = ring.all.iter().copied().chain(ADDED.map(|(_, algorithm)| algorithm)).collect();
        let is_known = |scheme: SignatureScheme| ring.mapping.iter().any(|(known, _)| *known == scheme);
        let mut mapping = ring.mapping.to_vec();
        let new = SignatureScheme::ECDSA_NISTP521_SHA512;
        if !is_known(new) {
            mapping.push((new, &[]));
        }
        let with_added = |(scheme, known): Mapping| -> Mapping {
            let added = ADDED.iter().filter(|(added, _)| *added == scheme).map(|(_, algorithm)| *algorithm);
            (scheme, Vec::leak(known.iter().copied().chain(added).collect()))
        };
        (all, mapping.into_iter().map(with_added).collect())
    });
    WebPkiSupportedAlgorithms { all: &ALL.0, mapping: &ALL.1 }
}

#[derive(Debug)]
struct Ecdsa {
    curve: &'static Curve,
    hash: &'static Hash,
}

type Verify = fn(key: &[u8], hash: &[u8], signature: &[u8]) -> Result<(), ecdsa::Error>;

#[derive(Debug)]
struct Curve {
    id: AlgorithmIdentifier,
    verify: Verify,
}

#[derive(Debug)]
struct Hash {
    id: AlgorithmIdentifier,
    digest: fn(&[u8]) -> Vec<u8>,
}

static SHA256: Hash = Hash { id: alg_id::ECDSA_SHA256, digest: |message| Sha256::digest(message).to_vec() };
static SHA384: Hash = Hash { id: alg_id::ECDSA_SHA384, digest: |message| Sha384::digest(message).to_vec() };
static SHA512: Hash = Hash { id: alg_id::ECDSA_SHA512, digest: |message| Sha512::digest(message).to_vec() };

static P256: Curve = Curve {
    id: alg_id::ECDSA_P256,
    verify: |key, hash, signature| {
        let signature = p256::ecdsa::Signature::from_der(signature)?;
        p256::ecdsa::VerifyingKey::from_sec1_bytes(key)?.verify_prehash(hash, &signature)
    },
};

static P384: Curve = Curve {
    id: alg_id::ECDSA_P384,
    verify: |key, hash, signature| {
        let signature = p384::ecdsa::Signature::from_der(signature)?;
        p384::ecdsa::VerifyingKey::from_sec1_bytes(key)?.verify_prehash(hash, &signature)
    },
};

static P521: Curve = Curve {
    id: alg_id::ECDSA_P521,
    verify: |key, hash, signature| {
        // A hash shorter than the field of 66 bytes is padded on the left.
        let mut number = [0; 66];
        for (to, from) in number.iter_mut().rev().zip(hash.iter().rev()) {
            *to = *from;
        }
        let signature = p521::ecdsa::Signature::from_der(signature)?;
        p521::ecdsa::VerifyingKey::from_sec1_bytes(key)?.verify_prehash(&number, &signature)
    },
};

impl SignatureVerificationAlgorithm for Ecdsa {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let hash = (self.hash.digest)(message);
        (self.curve.verify)(public_key, &hash, signature).map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.curve.id
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.hash.id
    }
}
