//! Images that are looked at in their registry, and are not stored.

use oci_puller::image::Platform;
use oci_puller::{PullContext, PullRequest, RegistryImageService};

use crate::exit::Exit;
use crate::registry_args::RegistryArgs;
use crate::signals::Signals;
use crate::temp_folder::TempFolder;

/// An image in its registry. The service that asks for it has an empty store in a temporary folder.
pub(crate) struct Remote {
    service: RegistryImageService,
    request: PullRequest,
    signals: Signals,
    _folder: TempFolder,
}

impl Remote {
    /// Prepares to ask for `image`, of a name with several platforms for `platform`, by default this machine's.
    pub(crate) fn new(image: &str, platform: Option<&Platform>, args: &RegistryArgs) -> Result<Self, Exit> {
        let signals = Signals::watch()?;
        let folder = TempFolder::create()?;
        let mut builder = args.apply(RegistryImageService::builder(folder.path()), [image])?;
        if let Some(platform) = platform {
            builder = builder.platform(platform.clone());
        }
        let (service, request) = (builder.build()?, PullRequest::new(0, image));
        Ok(Remote { service, request, signals, _folder: folder })
    }

    /// Asks the registry. A signal ends the request, and the command.
    pub(crate) fn ask<T>(
        &self,
        ask: impl FnOnce(&RegistryImageService, &PullContext, &PullRequest) -> Result<T, oci_puller::Error>,
    ) -> Result<T, Exit> {
        let cx = PullContext::new().with_cancel(self.signals.token());
        let answer = ask(&self.service, &cx, &self.request);
        self.signals.check()?;
        Ok(answer?)
    }
}
