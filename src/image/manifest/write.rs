//! Writes manifests and indexes as JSON.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::image::platform::Platform;

use super::types::{Descriptor, Index, Manifest};

impl Manifest {
    /// Writes the manifest as JSON; equal manifests give equal bytes. They are not the bytes it was parsed
    /// from: unknown fields are left out.
    pub fn to_json(&self) -> Vec<u8> {
        let mut fields = document(&self.media_type, self.artifact_type.as_deref());
        fields.put("config", Some(descriptor(&self.config)));
        fields.put("layers", Some(descriptors(&self.layers)));
        fields.put("subject", self.subject.as_ref().map(descriptor));
        fields.put("annotations", strings(&self.annotations));
        fields.into_bytes()
    }
}

impl Index {
    /// Writes the index as JSON; equal indexes give equal bytes. They are not the bytes it was parsed from:
    /// unknown fields, and entries that cannot be used, are left out.
    pub fn to_json(&self) -> Vec<u8> {
        let mut fields = document(&self.media_type, self.artifact_type.as_deref());
        fields.put("manifests", Some(descriptors(&self.manifests)));
        fields.put("subject", self.subject.as_ref().map(descriptor));
        fields.put("annotations", strings(&self.annotations));
        fields.into_bytes()
    }
}

/// The fields of an object; those without a value are left out.
#[derive(Default)]
struct ObjectFields(Map<String, Value>);

impl ObjectFields {
    fn put(&mut self, name: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.0.insert(name.to_owned(), value.into());
        }
    }

    fn into_bytes(self) -> Vec<u8> {
        Value::Object(self.0).to_string().into_bytes()
    }
}

fn document(media_type: &str, artifact_type: Option<&str>) -> ObjectFields {
    let mut fields = ObjectFields::default();
    fields.put("schemaVersion", Some(2));
    fields.put("mediaType", Some(media_type));
    fields.put("artifactType", artifact_type);
    fields
}

fn descriptors(list: &[Descriptor]) -> Value {
    list.iter().map(descriptor).collect()
}

fn descriptor(descriptor: &Descriptor) -> Value {
    let mut fields = ObjectFields::default();
    fields.put("mediaType", Some(&*descriptor.media_type));
    fields.put("digest", Some(descriptor.digest.as_str()));
    fields.put("size", Some(descriptor.size));
    fields.put("urls", texts(&descriptor.urls));
    fields.put("data", descriptor.data.as_ref().map(|data| STANDARD.encode(data)));
    fields.put("platform", descriptor.platform.as_ref().map(platform));
    fields.put("artifactType", descriptor.artifact_type.as_deref());
    fields.put("annotations", strings(&descriptor.annotations));
    Value::Object(fields.0)
}

fn platform(platform: &Platform) -> Value {
    let mut fields = ObjectFields::default();
    fields.put("os", Some(&*platform.os));
    fields.put("architecture", Some(&*platform.architecture));
    fields.put("variant", platform.variant.as_deref());
    fields.put("os.version", platform.os_version.as_deref());
    fields.put("os.features", texts(&platform.os_features));
    Value::Object(fields.0)
}

fn texts(list: &[String]) -> Option<Value> {
    (!list.is_empty()).then(|| list.iter().map(String::as_str).collect())
}

fn strings(map: &BTreeMap<String, String>) -> Option<Map<String, Value>> {
    let entries = map.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str())));
    (!map.is_empty()).then(|| entries.collect())
}
