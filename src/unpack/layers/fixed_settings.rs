//! Fixes the settings of a layer store, by the first that unpacks into it.

use rustix::fs::{AtFlags, Mode, XattrFlags};
use rustix::io::Errno;

use crate::context::PullContext;
use crate::error::{Error, ErrorKind};
use crate::unpack::beneath;
use crate::unpack::layers::handle::{LayerStore, SETTINGS, TMP};
use crate::unpack::layers::settings::LayerSettings;
use crate::unpack::settings::{Devices, Owners, Xattrs};

impl LayerStore {
    /// Compares the settings with those of the store, or makes them the store's if it has none yet.
    pub(super) fn settle(
        &self,
        owners: Option<&Owners>,
        devices: Option<Devices>,
        xattrs: Option<Xattrs>,
    ) -> Result<LayerSettings, Error> {
        let known = self.0.settings.lock().clone();
        let is_root = rustix::process::geteuid().is_root();
        let default = if is_root { Owners::AsImage } else { Owners::Current };
        let (name, ranges) = match owners.unwrap_or(&default) {
            Owners::AsImage => ("image", Vec::new()),
            Owners::Current => ("current", Vec::new()),
            Owners::Recorded(_) => ("recorded", Vec::new()),
            Owners::Mapped(ranges) => {
                ("mapped", ranges.iter().map(|range| (range.image, range.disk, range.count)).collect())
            }
        };
        let devices_name = match devices.unwrap_or(if is_root { Devices::Create } else { Devices::LeaveOut })
        {
            Devices::Create => "create",
            Devices::LeaveOut => "leave-out",
        };
        let xattrs_name = match xattrs.unwrap_or_default() {
            Xattrs::Portable => "portable",
            Xattrs::All => "all",
            Xattrs::None => "none",
        };
        if let Some(known) = known {
            let differs = [
                (owners.is_some() && (known.owners != name || known.ranges != ranges), "owners"),
                (devices.is_some() && known.devices != devices_name, "devices"),
                (xattrs.is_some() && known.xattrs != xattrs_name, "xattrs"),
            ];
            return match differs.iter().find(|(differs, _)| *differs) {
                None => Ok(known),
                Some((_, what)) => Err(self.0.wrong(format!("its layers were unpacked with other {what}"))),
            };
        }
        let settings = LayerSettings {
            version: 1,
            owners: name.to_owned(),
            ranges,
            devices: devices_name.to_owned(),
            xattrs: xattrs_name.to_owned(),
            opaque: self.opaque_attribute()?.to_owned(),
        };
        let text = serde_json::to_vec(&settings).unwrap_or_default();
        self.0.write_file(SETTINGS, &text, &self.flusher(&PullContext::new()))?;
        *self.0.settings.lock() = Some(settings.clone());
        Ok(settings)
    }

    /// The attribute that marks an opaque folder, and can be set here.
    fn opaque_attribute(&self) -> Result<&'static str, Error> {
        let failed = |error: Errno| self.0.failed("look for extended attributes", &error.into());
        let name = format!("{TMP}/{}", self.0.own_name());
        rustix::fs::mkdirat(&self.0.root, &*name, Mode::RWXU).map_err(failed)?;
        let probe = beneath::open(&self.0.root, name.as_bytes(), beneath::DIR).map_err(failed)?;
        let found = ["trusted.overlay.opaque", "user.overlay.opaque"]
            .into_iter()
            .find(|attribute| rustix::fs::fsetxattr(&probe, *attribute, b"y", XattrFlags::empty()).is_ok());
        rustix::fs::unlinkat(&self.0.root, &*name, AtFlags::REMOVEDIR).map_err(failed)?;
        let text = || {
            format!(
                "the layer store {}: its file system takes no extended attributes, which overlayfs needs",
                self.0.path.display()
            )
        };
        found.ok_or_else(|| Error::new(ErrorKind::Unsupported, text()))
    }
}
