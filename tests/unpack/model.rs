//! What a stack of layers becomes, in the simplest terms: a map of paths to nodes.
//!
//! A layer applies in three steps: markers hide what lower layers made, entries follow in order, and markers
//! below symbolic links of lower layers come last, because an entry may replace such a link.

use std::collections::{BTreeMap, HashMap};

use crate::layers::{Item, char_device, dir, fifo, file, hard_link, symlink};

/// An entry of a layer.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    File { path: String, content: String, mode: u64 },
    Dir { path: String, mode: u64, time: i64 },
    Symlink { path: String, target: String },
    HardLink { path: String, target: String },
    Device(String),
    Pipe(String),
    Whiteout(String),
    Opaque(String),
}

impl Entry {
    /// The entry for a tar.
    pub(crate) fn item(&self) -> Item {
        match self {
            Entry::File { path, content, mode } => file(path, content).mode(*mode),
            Entry::Dir { path, mode, time } => dir(path).mode(*mode).time(*time),
            Entry::Symlink { path, target } => symlink(path, target),
            Entry::HardLink { path, target } => hard_link(path, target),
            Entry::Device(path) => char_device(path, 1, 3),
            Entry::Pipe(path) => fifo(path).owner(5, 6),
            Entry::Whiteout(path) => {
                let (folder, name) = split(path);
                file(join(folder, &format!(".wh.{name}")), "")
            }
            Entry::Opaque(path) => file(join(path, ".wh..wh..opq"), ""),
        }
    }
}

/// A layer breaks a rule.
#[derive(Debug)]
pub(crate) struct Invalid;

#[derive(Clone)]
enum Kind {
    Dir,
    Symlink(String),
    Other,
}

#[derive(Clone)]
struct Node {
    kind: Kind,
    /// As in [`tree`](crate::tree::tree).
    line: String,
    inode: usize,
    /// The layer that is applied made or named it.
    is_own: bool,
}

const IMPLIED: &str = "dir t 0";

#[derive(Default)]
struct Model {
    nodes: BTreeMap<String, Node>,
    inodes: usize,
}

/// What the symbolic links on a way were.
#[derive(Default)]
struct Links {
    own: usize,
    lower: usize,
}

/// Returns the tree that the layers become, as [`tree`](crate::tree::tree) does.
pub(crate) fn merged(layers: &[Vec<Entry>]) -> Result<BTreeMap<String, String>, Invalid> {
    let mut model = Model::default();
    model.add("", Kind::Dir, IMPLIED);
    for layer in layers {
        model.apply(layer)?;
    }
    let mut first = HashMap::new();
    let line = |(path, node): (String, Node)| {
        let name = if path.is_empty() { ".".to_owned() } else { path };
        let first = first.entry(node.inode).or_insert_with(|| name.clone());
        let other = if *first == name { String::new() } else { format!(" & {first}") };
        (name, node.line + &other)
    };
    Ok(model.nodes.into_iter().map(line).collect())
}

impl Model {
    fn apply(&mut self, layer: &[Entry]) -> Result<(), Invalid> {
        self.nodes.values_mut().for_each(|node| node.is_own = false);
        let (markers, entries): (Vec<_>, Vec<_>) =
            layer.iter().partition(|entry| matches!(entry, Entry::Whiteout(_) | Entry::Opaque(_)));
        let late: Vec<_> = markers.into_iter().filter(|marker| !self.mark(marker, false)).collect();
        entries.into_iter().try_for_each(|entry| self.enter(entry))?;
        for marker in late {
            self.mark(marker, true);
        }
        Ok(())
    }

    /// Applies a marker; returns `false` if it has to wait for the entries.
    fn mark(&mut self, marker: &Entry, is_late: bool) -> bool {
        let (folder, name) = match marker {
            Entry::Whiteout(path) => split(path),
            Entry::Opaque(path) => (path.as_str(), ""),
            _ => return true,
        };
        let mut links = Links::default();
        let found = self.walk(folder, &mut links, false);
        if links.lower > 0 && !is_late {
            return false;
        }
        if let Ok(Some(folder)) = found
            && links.own == 0
        {
            let top = if name.is_empty() { folder } else { join(&folder, name) };
            self.hide(&top, name.is_empty());
        }
        true
    }

    /// Removes what lower layers made at a path and below it.
    fn hide(&mut self, top: &str, keeps_top: bool) {
        let below = self.below(top);
        for path in below.iter().rev().filter(|path| !keeps_top || *path != top) {
            let has_children = self.below(path).len() > 1;
            match self.nodes.get_mut(path) {
                Some(node) if node.is_own => {}
                Some(node) if has_children => (node.line, node.is_own) = (IMPLIED.to_owned(), true),
                _ => drop(self.nodes.remove(path)),
            }
        }
    }

    fn enter(&mut self, entry: &Entry) -> Result<(), Invalid> {
        let mode = |mode: u64, usual| if mode == usual { String::new() } else { format!(" {mode:04o}") };
        match entry {
            Entry::File { path, content, mode: bits } => {
                self.replace(path, Kind::Other, &format!("file {content}{}", mode(*bits, 0o644)))
            }
            Entry::Symlink { path, target } => {
                self.replace(path, Kind::Symlink(target.clone()), &format!("link {target}"))
            }
            Entry::Device(path) => self.replace(path, Kind::Other, "char 1:3"),
            Entry::Pipe(path) => self.replace(path, Kind::Other, "pipe 5:6"),
            Entry::Dir { path, mode: bits, time } => {
                let path = self.place(path)?;
                let line = format!("dir{} t {time}", mode(*bits, 0o755));
                match self.nodes.get_mut(&path) {
                    Some(Node { kind: Kind::Dir, line: known, is_own, .. }) => {
                        (*known, *is_own) = (line, true);
                    }
                    _ => self.add(&path, Kind::Dir, &line),
                }
                Ok(())
            }
            Entry::HardLink { path, target } => {
                let (folder, name) = split(target);
                let folder = self.walk(folder, &mut Links::default(), false)?.ok_or(Invalid)?;
                let target = join(&folder, name);
                self.linkable(&target)?;
                let path = self.place(path)?;
                if path == target {
                    return Err(Invalid);
                }
                self.remove(&path);
                // The new name may have replaced the target, or a folder above it.
                let node = Node { is_own: true, ..self.linkable(&target)? };
                self.nodes.insert(path, node);
                Ok(())
            }
            Entry::Whiteout(_) | Entry::Opaque(_) => Ok(()),
        }
    }

    fn linkable(&self, target: &str) -> Result<Node, Invalid> {
        self.nodes.get(target).filter(|node| !matches!(node.kind, Kind::Dir)).cloned().ok_or(Invalid)
    }

    fn replace(&mut self, path: &str, kind: Kind, line: &str) -> Result<(), Invalid> {
        let path = self.place(path)?;
        self.remove(&path);
        self.add(&path, kind, line);
        Ok(())
    }

    /// The path of a new name, whose folders are made.
    fn place(&mut self, path: &str) -> Result<String, Invalid> {
        let (folder, name) = split(path);
        let folder = self.walk(folder, &mut Links::default(), true)?.ok_or(Invalid)?;
        Ok(join(&folder, name))
    }

    /// Follows a path; makes what is missing of it if `makes`.
    fn walk(&mut self, path: &str, links: &mut Links, makes: bool) -> Result<Option<String>, Invalid> {
        let mut at = String::new();
        let mut rest: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
        while let Some(name) = rest.pop() {
            let next = join(&at, &name);
            match (&*name, self.nodes.get(&next)) {
                ("" | ".", _) => {}
                ("..", _) => at = split(&at).0.to_owned(),
                (_, Some(Node { kind: Kind::Dir, .. })) => at = next,
                (_, Some(Node { kind: Kind::Symlink(target), is_own, .. })) => {
                    if *is_own {
                        links.own += 1
                    } else {
                        links.lower += 1
                    }
                    if links.own + links.lower > 40 {
                        return Err(Invalid);
                    }
                    if target.starts_with('/') {
                        at.clear();
                    }
                    rest.extend(target.split('/').rev().map(str::to_owned));
                }
                (_, Some(Node { is_own: true, .. })) if makes => return Err(Invalid),
                _ if makes => {
                    self.add(&next, Kind::Dir, IMPLIED);
                    at = next;
                }
                _ => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    fn add(&mut self, path: &str, kind: Kind, line: &str) {
        self.inodes += 1;
        let node = Node { kind, line: line.to_owned(), inode: self.inodes, is_own: true };
        self.nodes.insert(path.to_owned(), node);
    }

    fn remove(&mut self, path: &str) {
        self.below(path).iter().for_each(|path| drop(self.nodes.remove(path)));
    }

    /// A path and those below it, parents first.
    fn below(&self, top: &str) -> Vec<String> {
        let is_below = |path: &&String| top.is_empty() || *path == top || path.starts_with(&join(top, ""));
        self.nodes.keys().filter(is_below).cloned().collect()
    }
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}
