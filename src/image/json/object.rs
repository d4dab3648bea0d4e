//! Objects whose fields are known.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserializer, MapAccess, Visitor};

use super::place::{PathStep, Place};
use super::unread::{Key, SeenKeys, Unread, duplicate};
use super::values::{Strict, ValueReader};
use crate::image::quoted::quoted;

/// An object, filled field by field.
pub(in crate::image) trait Object: Default {
    /// What it is, for messages: `a descriptor`.
    const WHAT: &'static str;
    /// The names of the fields that are read; 32 at most.
    const FIELDS: &'static [&'static str];

    /// Reads the field `name`, which is one of [`FIELDS`](Self::FIELDS).
    fn read_field<'de, A: MapAccess<'de>>(&mut self, name: &str, value: Value<'_, A>)
    -> Result<(), A::Error>;
}

/// The value of a field that was not read yet.
pub(in crate::image) struct Value<'a, A> {
    map: &'a mut A,
    place: &'a mut Place,
}

impl<'de, A: MapAccess<'de>> Value<'_, A> {
    pub(in crate::image) fn read<T: Strict>(self) -> Result<T, A::Error> {
        self.map.next_value_seed(ValueReader(self.place, PhantomData))
    }

    /// Reads a value that may be `null`, which is its default.
    pub(in crate::image) fn read_or_default<T: Strict + Default>(self) -> Result<T, A::Error> {
        self.read::<Option<T>>().map(Option::unwrap_or_default)
    }
}

/// Reads an object.
pub(in crate::image) fn object<'de, O: Object, D: Deserializer<'de>>(
    json: D,
    place: &mut Place,
) -> Result<O, D::Error> {
    json.deserialize_map(ObjectVisitor(place, PhantomData))
}

struct ObjectVisitor<'a, O>(&'a mut Place, PhantomData<O>);

impl<'de, O: Object> Visitor<'de> for ObjectVisitor<'_, O> {
    type Value = O;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(O::WHAT)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<O, A::Error> {
        let place = self.0;
        let mut object = O::default();
        let mut known_keys = 0_u32;
        let mut unknown_keys = SeenKeys::default();
        while let Some(key) = map.next_key_seed(Key)? {
            match O::FIELDS.iter().enumerate().find(|(_, name)| **name == key) {
                Some((index, name)) => {
                    let bit = 1 << index;
                    if known_keys & bit != 0 {
                        return Err(duplicate(&key));
                    }
                    known_keys |= bit;
                    place.path.push(PathStep::Field(name));
                    object.read_field(name, Value { map: &mut map, place: &mut *place })?;
                    place.path.pop();
                }
                None => {
                    refuse_look_alike(O::FIELDS, &key)?;
                    unknown_keys.insert(key)?;
                    map.next_value_seed(Unread::default())?;
                }
            }
        }
        Ok(object)
    }
}

/// Refuses a key that a parser which ignores case takes for a known one: it would see another document.
fn refuse_look_alike<E: serde::de::Error>(known: &[&str], key: &str) -> Result<(), E> {
    match known.iter().find(|name| key.chars().map(fold).eq(name.chars().map(fold))) {
        None => Ok(()),
        Some(name) => {
            Err(E::custom(format_args!("the key {} differs from {name:?} only in case", quoted(key))))
        }
    }
}

/// Folds case as Go's JSON parser does: the long s and the Kelvin sign are letters to it.
fn fold(character: char) -> char {
    match character {
        'ſ' => 's',
        '\u{212a}' => 'k',
        _ => character.to_ascii_lowercase(),
    }
}
