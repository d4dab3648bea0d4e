//! Public types that programs share among threads are `Send` and `Sync`. The compiler checks it.

use oci_puller::*;

macro_rules! send_and_sync {
    ($($module:ident: $($type:ty),+;)+) => {
        $(const _: fn() = || {
            #[allow(unused_imports)]
            use oci_puller::$module::*;
            fn check<T: Send + Sync + ?Sized>() {}
            $(check::<$type>();)+
        };)+
    };
}

type Service = std::sync::Arc<dyn ImageService>;

const _: fn() = || {
    fn check<T: Send + Sync + ?Sized>() {}
    check::<ParallelImagePuller<Service>>();
    check::<SerialImagePuller<Service>>();
    check::<dyn ImagePuller>();
    check::<PullResult>();
    check::<ImageManager>();
    check::<EnsureRequest>();
    check::<EnsureResult>();
    check::<PrepullRequest>();
    check::<PrepullSummary>();
    check::<RegistryImageService>();
    check::<Store>();
    check::<PullContext>();
    check::<CancelToken>();
    check::<CancelHook>();
    check::<Error>();
    check::<dyn ImageService>();
    check::<ImageInfo>();
    check::<ImageFsInfo>();
    check::<PullRequest>();
    check::<PulledImage>();
};

send_and_sync! {
    clock: SystemClock, dyn Clock;
    credentials: Credential, CredentialQuery<'static>, Keyring, dyn Keychain;
    image: Digest, Document, Hasher, ImageConfig, Platform, Reference;
    manager: Event, ImageManagerBuilder, ImageSource, ManagerMetrics, VerificationPolicy, dyn EventSink;
    progress: ProgressEvent, dyn Progress;
    puller: ParallelImagePullerBuilder<Service>, PullerStats, Rejected, SerialImagePullerBuilder<Service>;
    registry: RegistryImageServiceBuilder, Candidate<'static>, FetchedManifest, VerifyError, dyn ImageVerifier,
        dyn Resolver;
    store: Blob, Imported, StoreBuilder, StoredImage, VerifyReport;
}

#[cfg(feature = "cri")]
send_and_sync! { cri: CriImageService, CriImageServiceBuilder; }

#[cfg(feature = "signatures")]
send_and_sync! { signatures: SignaturePolicy, SignaturePolicyBuilder; }

#[cfg(feature = "testing")]
send_and_sync! { testing: FaultHandle, Registry, TokenServer; }

#[cfg(feature = "unpack")]
send_and_sync! { unpack: LayerStack, LayerStore, LayerStoreBuilder, Unpacked; }
