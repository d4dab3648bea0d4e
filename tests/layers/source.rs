//! The source files.

use std::fs;
use std::path::{Path, PathBuf};

/// A source file, and the module that it is.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) module: Vec<String>,
    pub(crate) text: String,
}

impl Source {
    pub(crate) fn new(path: impl AsRef<Path>, text: impl Into<String>) -> Self {
        let inside = path.as_ref().strip_prefix("src").unwrap().with_extension("");
        let mut module: Vec<String> = inside.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
        if matches!(module.last().map(String::as_str), Some("mod" | "lib")) {
            module.pop();
        }
        Source { path: path.as_ref().to_owned(), module, text: text.into() }
    }

    /// Whether only tests are built with it.
    pub(crate) fn is_test(&self) -> bool {
        self.module.iter().any(|part| part == "tests")
    }

    /// The file without the unit tests at its end.
    pub(crate) fn without_tests(&self) -> Source {
        let end = self.text.find("#[cfg(test)]\nmod tests {").unwrap_or(self.text.len());
        Source { path: self.path.clone(), module: self.module.clone(), text: self.text[..end].to_owned() }
    }

    /// The module that `crate` stands for.
    pub(crate) fn root(&self) -> impl Iterator<Item = String> {
        let parts = if self.module[0] == "bin" { 2 } else { 0 };
        self.module[..parts].iter().cloned()
    }

    /// The room it is in; `None` for the crate's root, and for programs, which are crates of their own.
    pub(crate) fn room(&self) -> Option<&str> {
        self.module.first().map(String::as_str).filter(|room| *room != "bin")
    }
}

/// Every file of `src`, by its path from the crate's folder.
pub(crate) fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join("src")];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                sources.push(Source::new(path.strip_prefix(root).unwrap(), text));
            }
        }
    }
    sources
}
