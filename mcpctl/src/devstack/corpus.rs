//! What is indexed: the text files of a directory, or this project's own documents, which every build carries.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use protocol::{Code, Problem};

/// Files taken at most: the agreement allows a thousand calls a day.
const MAX_FILES: usize = 500;
/// A longer text is passed over; the agent takes a megabyte.
const MAX_FILE: u64 = 1 << 20;
/// Directories below the first that are looked into.
const MAX_DEPTH: usize = 8;

/// This project's own documents.
const OWN: [(&str, &str); 4] = [
    ("README.md", include_str!("../../../README.md")),
    ("ARCHITECTURE.md", include_str!("../../../ARCHITECTURE.md")),
    ("CHANGELOG.md", include_str!("../../../CHANGELOG.md")),
    ("protocol/wit/plugin.wit", include_str!("../../../protocol/wit/plugin.wit")),
];

/// The texts, by path.
#[derive(Debug)]
pub(super) struct Corpus {
    pub(super) texts: Vec<(String, String)>,
    /// Files that were no text, too long, or too many.
    pub(super) skipped: usize,
}

impl Corpus {
    /// Reads the text files of a directory, hidden ones aside.
    pub(super) fn open(directory: Option<&Path>) -> Result<Self, Problem> {
        let Some(directory) = directory else {
            return Ok(Self { texts: OWN.map(|(path, text)| (path.into(), text.into())).into(), skipped: 0 });
        };
        let mut corpus = Self { texts: Vec::new(), skipped: 0 };
        corpus
            .walk(directory, directory, 0)
            .map_err(|error| Problem::new(Code::InvalidRequest, format!("can't read {}: {error}", directory.display())))?;
        if corpus.texts.is_empty() {
            return Err(Problem::new(Code::InvalidRequest, format!("{} holds no text file", directory.display()))
                .hint("name a directory with some, with '--docs DIR'"));
        }
        Ok(corpus)
    }

    fn walk(&mut self, root: &Path, directory: &Path, depth: usize) -> std::io::Result<()> {
        let mut paths: Vec<PathBuf> = directory.read_dir()?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
        paths.sort();
        for path in paths {
            let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
            // Links are not followed: they may lead anywhere, or in a circle.
            let Ok(metadata) = path.symlink_metadata() else { continue };
            if hidden {
            } else if metadata.is_dir() && depth < MAX_DEPTH {
                self.walk(root, &path, depth + 1)?;
            } else if metadata.is_file() {
                self.take(root, &path, metadata.len());
            }
        }
        Ok(())
    }

    fn take(&mut self, root: &Path, path: &Path, length: u64) {
        let fits = (1..=MAX_FILE).contains(&length) && self.texts.len() < MAX_FILES;
        let text = Some(path).filter(|_| fits).and_then(|path| std::fs::read_to_string(path).ok()).filter(|text| !text.contains('\0'));
        match text {
            Some(text) => self.texts.push((path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned(), text)),
            None => self.skipped += 1,
        }
    }

    /// Two words to search for: those that say most about one text, as they are frequent there and in few others.
    pub(super) fn query(&self) -> String {
        let mut texts_with: HashMap<String, usize> = HashMap::new();
        let counts: Vec<HashMap<String, usize>> = self.texts.iter().map(|(_, text)| words(text)).collect();
        for word in counts.iter().flat_map(HashMap::keys) {
            *texts_with.entry(word.clone()).or_default() += 1;
        }
        let longest = counts.iter().max_by_key(|count| count.values().sum::<usize>());
        let weight = |word: &str, count: usize| count as f64 * (1.0 + self.texts.len() as f64 / texts_with[word] as f64).ln();
        let mut ranked: Vec<_> = longest.into_iter().flatten().map(|(word, count)| (weight(word, *count), word)).collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
        ranked.iter().take(2).map(|(_, word)| word.as_str()).collect::<Vec<_>>().join(" ")
    }
}

fn words(text: &str) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| word.chars().count() >= 5) {
        *counts.entry(word.to_lowercase()).or_default() += 1;
    }
    if counts.is_empty() {
        // Very short texts: any word will do.
        counts.extend(text.split_whitespace().map(|word| (word.to_lowercase(), 1)));
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_files_are_taken_and_others_counted() {
        let place = tempfile::tempdir().expect("temp");
        let write = |name: &str, bytes: &[u8]| std::fs::write(place.path().join(name), bytes).expect("write");
        std::fs::create_dir(place.path().join("sub")).expect("dir");
        write("one.txt", b"gossip gossip gossip about the mesh");
        write("sub/two.md", b"a mesh of agents");
        write("picture.png", &[0, 159, 146, 150]);
        write(".hidden", b"secret");
        let corpus = Corpus::open(Some(place.path())).expect("readable");
        let paths: Vec<_> = corpus.texts.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!((paths, corpus.skipped), (vec!["one.txt", "sub/two.md"], 1));
        assert!(corpus.query().starts_with("gossip"));
    }

    #[test]
    fn a_directory_without_text_is_refused() {
        let place = tempfile::tempdir().expect("temp");
        assert!(Corpus::open(Some(place.path())).is_err());
        assert!(Corpus::open(Some(&place.path().join("none"))).is_err());
        assert!(!Corpus::open(None).expect("own documents").query().is_empty());
    }
}
