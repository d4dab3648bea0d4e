//! Values that are kept: text, integers, lists, and objects whose keys are free.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::limits::{MAX_DESCRIPTORS, MAX_DOCUMENT_BYTES, MAX_FIELDS};
use super::place::{PathStep, Place};
use super::unread::{Key, SeenKeys, Unread, duplicate};
use crate::error::{Error, ErrorKind};

/// A value that can be read strictly.
pub(in crate::image) trait Strict: Sized {
    fn read<'de, D: Deserializer<'de>>(json: D, place: &mut Place) -> Result<Self, D::Error>;
}

/// Parses all of `bytes`.
///
/// # Errors
/// `InvalidManifest`, `Unsupported`.
pub(in crate::image) fn parse<T: Strict>(bytes: &[u8]) -> Result<T, Error> {
    if bytes.len() > MAX_DOCUMENT_BYTES {
        let message = format!("{} bytes are more than the {MAX_DOCUMENT_BYTES} allowed", bytes.len());
        return Err(Error::new(ErrorKind::InvalidManifest, message));
    }
    let mut place = Place::default();
    let mut json = serde_json::Deserializer::from_slice(bytes);
    T::read(&mut json, &mut place)
        .and_then(|value| json.end().map(|()| value))
        .map_err(|error| place.explain(&error))
}

/// Reads a `T` at a place.
pub(super) struct ValueReader<'a, T>(pub(super) &'a mut Place, pub(super) PhantomData<T>);

impl<'de, T: Strict> DeserializeSeed<'de> for ValueReader<'_, T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<T, D::Error> {
        T::read(json, self.0)
    }
}

/// `null` is `None`.
impl<T: Strict> Strict for Option<T> {
    fn read<'de, D: Deserializer<'de>>(json: D, place: &mut Place) -> Result<Self, D::Error> {
        json.deserialize_option(OptionVisitor(place, PhantomData))
    }
}

struct OptionVisitor<'a, T>(&'a mut Place, PhantomData<T>);

impl<'de, T: Strict> Visitor<'de> for OptionVisitor<'_, T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value or null")
    }

    fn visit_none<E>(self) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, json: D) -> Result<Option<T>, D::Error> {
        T::read(json, self.0).map(Some)
    }
}

impl Strict for String {
    fn read<'de, D: Deserializer<'de>>(json: D, _: &mut Place) -> Result<Self, D::Error> {
        json.deserialize_str(TextVisitor)
    }
}

struct TextVisitor;

impl Visitor<'_> for TextVisitor {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }
}

impl Strict for bool {
    fn read<'de, D: Deserializer<'de>>(json: D, _: &mut Place) -> Result<Self, D::Error> {
        serde::Deserialize::deserialize(json)
    }
}

impl<T: Strict> Strict for Vec<T> {
    fn read<'de, D: Deserializer<'de>>(json: D, place: &mut Place) -> Result<Self, D::Error> {
        json.deserialize_seq(ListVisitor(place, PhantomData))
    }
}

struct ListVisitor<'a, T>(&'a mut Place, PhantomData<T>);

impl<'de, T: Strict> Visitor<'de> for ListVisitor<'_, T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let mut items = Vec::new();
        loop {
            self.0.path.push(PathStep::Item(items.len()));
            let item = list.next_element_seed(ValueReader(&mut *self.0, PhantomData))?;
            self.0.path.pop();
            match item {
                None => return Ok(items),
                Some(_) if items.len() >= MAX_DESCRIPTORS => {
                    return Err(A::Error::custom(format_args!("more than {MAX_DESCRIPTORS} items")));
                }
                Some(item) => items.push(item),
            }
        }
    }
}

/// A value of `null` counts as a key that is absent.
impl<T: Strict> Strict for BTreeMap<String, T> {
    fn read<'de, D: Deserializer<'de>>(json: D, place: &mut Place) -> Result<Self, D::Error> {
        json.deserialize_map(MapVisitor(place, PhantomData))
    }
}

struct MapVisitor<'a, T>(&'a mut Place, PhantomData<T>);

impl<'de, T: Strict> Visitor<'de> for MapVisitor<'_, T> {
    type Value = BTreeMap<String, T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries: BTreeMap<String, Option<T>> = BTreeMap::new();
        while let Some(key) = map.next_key_seed(Key)? {
            if entries.contains_key(&*key) {
                return Err(duplicate(&key));
            }
            if entries.len() >= MAX_FIELDS {
                return Err(A::Error::custom(format_args!("more than {MAX_FIELDS} fields")));
            }
            let value = map.next_value_seed(ValueReader(&mut *self.0, PhantomData))?;
            entries.insert(key.into_owned(), value);
        }
        Ok(entries.into_iter().filter_map(|(key, value)| Some((key, value?))).collect())
    }
}

/// The keys of an object whose values say nothing: how Go writes a set.
#[derive(Default)]
pub(in crate::image) struct Names(pub(in crate::image) Vec<String>);

impl Strict for Names {
    fn read<'de, D: Deserializer<'de>>(json: D, _: &mut Place) -> Result<Self, D::Error> {
        json.deserialize_map(NamesVisitor)
    }
}

struct NamesVisitor;

impl<'de> Visitor<'de> for NamesVisitor {
    type Value = Names;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names, A::Error> {
        let mut keys = SeenKeys::default();
        let mut names = Vec::new();
        while let Some(key) = map.next_key_seed(Key)? {
            names.push(key.clone().into_owned());
            keys.insert(key)?;
            map.next_value_seed(Unread::default())?;
        }
        Ok(Names(names))
    }
}

/// A whole number that 64 bits hold, with or without a sign.
#[derive(Clone, Copy)]
pub(in crate::image) struct Integer(pub(in crate::image) i128);

impl Strict for Integer {
    fn read<'de, D: Deserializer<'de>>(json: D, _: &mut Place) -> Result<Self, D::Error> {
        json.deserialize_i64(IntegerVisitor)
    }
}

struct IntegerVisitor;

impl Visitor<'_> for IntegerVisitor {
    type Value = Integer;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number")
    }

    fn visit_u64<E>(self, number: u64) -> Result<Integer, E> {
        Ok(Integer(number.into()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Integer, E> {
        Ok(Integer(number.into()))
    }
}
