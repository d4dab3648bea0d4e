//! JSON, read strictly and in one pass: no key twice, none that differs from a known one only in case,
//! no null where something is expected, nothing too deep, too long or too many; and an error names the
//! field it is about. Unknown fields are passed over, but not unread.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;

use crate::error::{Error, ErrorKind};
use crate::image::quoted::quoted;

use super::{MAX_DESCRIPTORS, MAX_DOCUMENT_BYTES};

/// How deep lists and objects may lie in each other where nobody looks.
const MAX_DEPTH: usize = 32;
/// How many fields an object may have.
const MAX_FIELDS: usize = 4096;
/// How much of a message of the JSON parser, which quotes its input, is passed on.
const MAX_MESSAGE_CHARS: usize = 200;

/// A value that can be read strictly.
pub(super) trait Strict: Sized {
    fn read<'de, D: Deserializer<'de>>(json: D, place: &mut Place) -> Result<Self, D::Error>;
}

/// An object, filled field by field.
pub(super) trait Object: Default {
    /// What it is, for messages: `a descriptor`.
    const WHAT: &'static str;
    /// The names of the fields that are read; 32 at most.
    const FIELDS: &'static [&'static str];

    /// Reads the field `name`, which is one of [`FIELDS`](Self::FIELDS).
    fn read_field<'de, A: MapAccess<'de>>(&mut self, name: &str, value: Value<'_, A>)
    -> Result<(), A::Error>;
}

/// Reads all of `bytes`.
pub(super) fn parse<T: Strict>(bytes: &[u8]) -> Result<T, Error> {
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

/// Where in the document the reader is. After a failure it stays where that was.
#[derive(Default)]
pub(super) struct Place {
    path: Vec<Step>,
    kind: Option<ErrorKind>,
}

enum Step {
    Field(&'static str),
    Item(usize),
}

/// What is wrong with a field of an object that was read to its end.
pub(super) struct Flaw {
    pub(super) field: &'static str,
    pub(super) why: String,
}

impl Flaw {
    pub(super) fn missing(field: &'static str) -> Self {
        Flaw { field, why: "is missing".to_owned() }
    }
}

impl Place {
    /// Turns `error`, which came of the value at this place, into one of the parser's.
    fn refuse<E: serde::de::Error>(&mut self, error: &Error) -> E {
        self.kind = Some(error.kind());
        E::custom(error.message())
    }

    /// Turns `flaw`, found in the object at this place, into an error of the parser's.
    pub(super) fn flawed<E: serde::de::Error>(&mut self, flaw: Flaw) -> E {
        self.path.push(Step::Field(flaw.field));
        E::custom(flaw.why)
    }

    fn explain(&self, error: &serde_json::Error) -> Error {
        let kind = match self.kind {
            Some(ErrorKind::Unsupported) => ErrorKind::Unsupported,
            _ => ErrorKind::InvalidManifest,
        };
        let what = match error.classify() {
            Category::Data => "",
            Category::Syntax | Category::Eof | Category::Io => "not JSON: ",
        };
        let message = error.to_string();
        let shown: String = message.chars().take(MAX_MESSAGE_CHARS).collect();
        let more = if shown.len() < message.len() { "…" } else { "" };
        Error::new(kind, format!("{self}{what}{shown}{more}"))
    }
}

/// `layers[3].size: `, or nothing at the top.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (depth, step) in self.path.iter().enumerate() {
            match step {
                Step::Field(name) if depth == 0 => write!(f, "{name}")?,
                Step::Field(name) => write!(f, ".{name}")?,
                Step::Item(index) => write!(f, "[{index}]")?,
            }
        }
        if self.path.is_empty() { Ok(()) } else { f.write_str(": ") }
    }
}

/// The value of a field, not read yet.
pub(super) struct Value<'a, A> {
    map: &'a mut A,
    place: &'a mut Place,
}

impl<'de, A: MapAccess<'de>> Value<'_, A> {
    pub(super) fn read<T: Strict>(self) -> Result<T, A::Error> {
        self.map.next_value_seed(Reader(self.place, PhantomData))
    }
}

struct Reader<'a, T>(&'a mut Place, PhantomData<T>);

impl<'de, T: Strict> DeserializeSeed<'de> for Reader<'_, T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<T, D::Error> {
        T::read(json, self.0)
    }
}

/// Reads an object.
pub(super) fn object<'de, O: Object, D: Deserializer<'de>>(
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
        let mut unknown_keys = Keys::default();
        while let Some(key) = map.next_key_seed(Key)? {
            match O::FIELDS.iter().enumerate().find(|(_, name)| **name == key) {
                Some((index, name)) => {
                    let bit = 1 << index;
                    if known_keys & bit != 0 {
                        return Err(duplicate(&key));
                    }
                    known_keys |= bit;
                    place.path.push(Step::Field(name));
                    object.read_field(name, Value { map: &mut map, place: &mut *place })?;
                    place.path.pop();
                }
                None => {
                    refuse_look_alike(O::FIELDS, &key)?;
                    unknown_keys.insert(key)?;
                    map.next_value_seed(Unread { depth: 0 })?;
                }
            }
        }
        Ok(object)
    }
}

fn duplicate<E: serde::de::Error>(key: &str) -> E {
    E::custom(format_args!("the key {} stands twice in one object", quoted(key)))
}

/// A parser that does not mind case would take such a key for the known one, and see another document.
fn refuse_look_alike<E: serde::de::Error>(known: &[&str], key: &str) -> Result<(), E> {
    match known.iter().find(|name| key.chars().map(fold).eq(name.chars().map(fold))) {
        None => Ok(()),
        Some(name) => {
            Err(E::custom(format_args!("the key {} differs from {name:?} only in case", quoted(key))))
        }
    }
}

/// Case as Go's JSON parser folds it: the long s and the Kelvin sign are letters to it.
fn fold(character: char) -> char {
    match character {
        'ſ' => 's',
        '\u{212a}' => 'k',
        _ => character.to_ascii_lowercase(),
    }
}

/// The keys that an object had so far.
#[derive(Default)]
struct Keys<'de>(HashSet<Cow<'de, str>>);

impl<'de> Keys<'de> {
    fn insert<E: serde::de::Error>(&mut self, key: Cow<'de, str>) -> Result<(), E> {
        if self.0.contains(&key) {
            return Err(duplicate(&key));
        }
        if self.0.len() >= MAX_FIELDS {
            return Err(E::custom(format_args!("an object has more than {MAX_FIELDS} fields")));
        }
        self.0.insert(key);
        Ok(())
    }
}

struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Cow<'de, str>, D::Error> {
        json.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(key))
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(key.to_owned()))
    }
}

/// A value that nobody wants; still, no key in it stands twice.
#[derive(Clone, Copy)]
struct Unread {
    depth: usize,
}

impl Unread {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth >= MAX_DEPTH {
            return Err(E::custom(format_args!("lists and objects lie deeper than {MAX_DEPTH}")));
        }
        Ok(Unread { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Unread {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unread {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let item = self.deeper()?;
        while list.next_element_seed(item)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let value = self.deeper()?;
        let mut keys = Keys::default();
        while let Some(key) = map.next_key_seed(Key)? {
            keys.insert(key)?;
            map.next_value_seed(value)?;
        }
        Ok(())
    }
}

/// Reads a string that `convert` makes something of.
pub(super) fn text<'de, T, D: Deserializer<'de>>(
    json: D,
    place: &mut Place,
    what: &'static str,
    convert: impl FnOnce(&str) -> Result<T, Error>,
) -> Result<T, D::Error> {
    json.deserialize_str(TextVisitor { place, what, convert })
}

struct TextVisitor<'a, F> {
    place: &'a mut Place,
    what: &'static str,
    convert: F,
}

impl<T, F: FnOnce(&str) -> Result<T, Error>> Visitor<'_> for TextVisitor<'_, F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        (self.convert)(text).map_err(|error| self.place.refuse(&error))
    }
}

impl Strict for String {
    fn read<'de, D: Deserializer<'de>>(json: D, place: &mut Place) -> Result<Self, D::Error> {
        text(json, place, "a string", |text| Ok(text.to_owned()))
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
            self.0.path.push(Step::Item(items.len()));
            let item = list.next_element_seed(Reader(&mut *self.0, PhantomData))?;
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

impl Strict for BTreeMap<String, String> {
    fn read<'de, D: Deserializer<'de>>(json: D, place: &mut Place) -> Result<Self, D::Error> {
        json.deserialize_map(StringsVisitor(place))
    }
}

struct StringsVisitor<'a>(&'a mut Place);

impl<'de> Visitor<'de> for StringsVisitor<'_> {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut strings = BTreeMap::new();
        while let Some(key) = map.next_key_seed(Key)? {
            if strings.contains_key(&*key) {
                return Err(duplicate(&key));
            }
            if strings.len() >= MAX_FIELDS {
                return Err(A::Error::custom(format_args!("more than {MAX_FIELDS} fields")));
            }
            let value = Value { map: &mut map, place: &mut *self.0 }.read()?;
            strings.insert(key.into_owned(), value);
        }
        Ok(strings)
    }
}

/// A number from 0 to `i64::MAX`, which is all that other readers can hold.
pub(super) struct Count(pub(super) u64);

impl Strict for Count {
    fn read<'de, D: Deserializer<'de>>(json: D, _: &mut Place) -> Result<Self, D::Error> {
        json.deserialize_u64(CountVisitor)
    }
}

struct CountVisitor;

impl Visitor<'_> for CountVisitor {
    type Value = Count;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number")
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Count, E> {
        if number > i64::MAX.unsigned_abs() {
            return Err(E::custom(format_args!("{number} is more than any size can be")));
        }
        Ok(Count(number))
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Count, E> {
        u64::try_from(number).map(Count).map_err(|_| E::custom(format_args!("{number} is negative")))
    }
}
