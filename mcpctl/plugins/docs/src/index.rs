//! The inverted index as keys of the agent's state.
//!
//! ```text
//! stats                            totals over all documents (JSON)
//! i/<path>                         the document's id
//! d/<id>                           the document: path, title, counts (JSON)
//! x/<id>/<n>                       its text in pieces of 16 KiB
//! f/<id>/<n>                       its postings, to take them out again
//! t/<word>/<id>/<count>.<words>.<first>   one posting, all of it in the key
//! ```
//! A posting says all that ranking needs, so a search lists the postings of its words and reads nothing else but
//! the documents that it shows. A document writes one small key for each of its words and never touches another's.
//! Numbers in keys are in base 36.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{rank::Collection, snippet, text::words};

/// A piece of a text or of a list of postings.
const PIECE: usize = 16 * 1024;
/// What a word in the title counts for.
const TITLE: u64 = 3;
/// The most different words of a query; more are left out.
const MAX_WORDS: usize = 32;
/// The longest title in characters that is made of a text's first line.
const MAX_TITLE: usize = 120;
/// Keys asked for at a time.
const PAGE: u32 = 10_000;

/// The state that the index lives in: an ordered map.
pub trait Store {
    /// The value of a key.
    fn get(&self, key: &str) -> Option<Vec<u8>>;
    /// Writes a key.
    fn set(&mut self, key: &str, value: &[u8]) -> Result<(), String>;
    /// Deletes a key.
    fn delete(&mut self, key: &str) -> Result<(), String>;
    /// Keys with the prefix after `after`, in order.
    fn list(&self, prefix: &str, after: Option<&str>, limit: u32) -> Vec<String>;
}

/// Totals.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Documents.
    pub documents: u64,
    /// Different words, added up over the documents.
    pub terms: u64,
    /// Bytes of text.
    pub bytes: u64,
    words: u64,
    next: u64,
}

/// A document, without its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// Its name.
    pub path: String,
    /// What to show for it.
    pub title: String,
    /// Different words.
    pub terms: u64,
    /// Bytes of text.
    pub bytes: u64,
    words: u64,
    pieces: u64,
}

/// An answer to a search.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Hit {
    /// The document's name.
    pub path: String,
    /// Its title.
    pub title: String,
    /// How well it answers; comparable within one search.
    pub score: f64,
    /// A piece of its text around a match.
    pub snippet: String,
}

/// A word in a document.
#[derive(Debug, Clone, Copy, Default)]
struct Posting {
    count: u64,
    /// Where in the text it stands first, plus one; 0 if it is in the title alone.
    first: u64,
}

/// The totals.
pub fn stats(store: &impl Store) -> Result<Stats, String> {
    store.get("stats").map_or(Ok(Stats::default()), |bytes| read("stats", &bytes))
}

/// Puts a document into the index, in place of the one of the same path.
pub fn index(store: &mut impl Store, path: &str, title: Option<&str>, text: &str) -> Result<Document, String> {
    let mut stats = stats(store)?;
    let title = title.map_or_else(|| heading(path, text), str::to_owned);
    let (postings, count) = count(&title, text);
    let document = Document {
        path: path.to_owned(),
        title,
        terms: postings.len() as u64,
        bytes: text.len() as u64,
        words: count,
        pieces: text.len().div_ceil(PIECE) as u64,
    };
    let name = format!("i/{path}");
    let id = match store.get(&name) {
        Some(id) => String::from_utf8(id).map_err(|_| format!("the key {name} is damaged"))?,
        None => {
            let id = base36(stats.next);
            stats.next += 1;
            store.set(&name, id.as_bytes())?;
            id
        }
    };
    if let Some(old) = store.get(&format!("d/{id}")) {
        let old: Document = read("document", &old)?;
        stats.documents -= 1;
        stats.terms -= old.terms;
        stats.bytes -= old.bytes;
        stats.words -= old.words;
        (document.pieces..old.pieces).try_for_each(|n| store.delete(&format!("x/{id}/{}", base36(n))))?;
    }
    replace_postings(store, &id, &postings, count)?;
    for (n, piece) in text.as_bytes().chunks(PIECE).enumerate() {
        store.set(&format!("x/{id}/{}", base36(n as u64)), piece)?;
    }
    store.set(&format!("d/{id}"), &json(&document)?)?;
    stats.documents += 1;
    stats.terms += document.terms;
    stats.bytes += document.bytes;
    stats.words += document.words;
    store.set("stats", &json(&stats)?)?;
    Ok(document)
}

/// The documents that have any of the query's words: the best `limit`, and how many there are.
pub fn search(store: &impl Store, query: &str, limit: usize) -> Result<(Vec<Hit>, u64), String> {
    let stats = stats(store)?;
    let collection = Collection { documents: stats.documents, words: stats.words };
    let mut wanted = Vec::new();
    words(query, |word, _| {
        if wanted.len() < MAX_WORDS && !wanted.iter().any(|known| known == word) {
            wanted.push(word.to_owned());
        }
    });
    let mut found: BTreeMap<u64, Match> = BTreeMap::new();
    for word in &wanted {
        let postings = postings(store, word)?;
        let weight = collection.weight(postings.len() as u64);
        for (id, posting, words) in postings {
            let entry = found.entry(id).or_default();
            entry.score += collection.score(weight, posting.count, words);
            // The snippet shows the rarest word that is in the text.
            if posting.first > 0 && weight > entry.weight {
                (entry.weight, entry.first) = (weight, posting.first);
            }
        }
    }
    let total = found.len() as u64;
    let mut best: Vec<(u64, Match)> = found.into_iter().collect();
    // Ids break ties, so that the same search gives the same answer.
    let order = |a: &(u64, Match), b: &(u64, Match)| b.1.score.total_cmp(&a.1.score).then(a.0.cmp(&b.0));
    if best.len() > limit && limit > 0 {
        best.select_nth_unstable_by(limit - 1, order);
    }
    best.truncate(limit);
    best.sort_unstable_by(order);
    let hits = best.into_iter().map(|(id, found)| show(store, id, &found)).collect::<Result<_, _>>()?;
    Ok((hits, total))
}

#[derive(Debug, Default)]
struct Match {
    score: f64,
    weight: f64,
    first: u64,
}

fn show(store: &impl Store, id: u64, found: &Match) -> Result<Hit, String> {
    let id = base36(id);
    let document = store.get(&format!("d/{id}")).ok_or_else(|| format!("the document {id} is missing"))?;
    let Document { path, title, bytes, .. } = read("document", &document)?;
    let anchor = usize::try_from(found.first.saturating_sub(1)).unwrap_or(0);
    let end = usize::try_from(bytes).unwrap_or(usize::MAX);
    let window = anchor.saturating_sub(snippet::BEFORE)..(anchor + snippet::AFTER).min(end);
    let mut shown = Vec::new();
    for n in window.start / PIECE..window.end.div_ceil(PIECE) {
        let piece = store.get(&format!("x/{id}/{}", base36(n as u64))).unwrap_or_default();
        let within = |at: usize| at.saturating_sub(n * PIECE).min(piece.len());
        shown.extend_from_slice(&piece[within(window.start)..within(window.end)]);
    }
    let snippet = snippet::snippet(&shown, window.start == 0, window.end == end);
    Ok(Hit { path, title, score: (found.score * 1e4).round() / 1e4, snippet })
}

/// All postings of a word: document, posting, words of the document.
fn postings(store: &impl Store, word: &str) -> Result<Vec<(u64, Posting, u64)>, String> {
    let prefix = format!("t/{word}/");
    let mut all = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let keys = store.list(&prefix, after.as_deref(), PAGE);
        for key in &keys {
            all.push(parse(&key[prefix.len()..]).ok_or_else(|| format!("the key {key} is damaged"))?);
        }
        match keys.into_iter().last() {
            Some(last) if all.len() % PAGE as usize == 0 => after = Some(last),
            _ => return Ok(all),
        }
    }
}

/// Reads `<id>/<count>.<words>.<first>`.
fn parse(tail: &str) -> Option<(u64, Posting, u64)> {
    let number = |text: &str| u64::from_str_radix(text, 36).ok();
    let (id, rest) = tail.split_once('/')?;
    let mut numbers = rest.split('.').map(number);
    let (count, words, first) = (numbers.next()??, numbers.next()??, numbers.next()??);
    Some((number(id)?, Posting { count, first }, words))
}

/// Each different word of a document, and how many words it has.
fn count(title: &str, text: &str) -> (BTreeMap<String, Posting>, u64) {
    let mut postings: BTreeMap<String, Posting> = BTreeMap::new();
    let mut total = 0;
    let mut note = |word: &str, weight: u64, first: u64| {
        total += 1;
        match postings.get_mut(word) {
            Some(posting) => {
                posting.count += weight;
                posting.first = if posting.first == 0 { first } else { posting.first };
            }
            None => {
                postings.insert(word.to_owned(), Posting { count: weight, first });
            }
        }
    };
    words(title, |word, _| note(word, TITLE, 0));
    words(text, |word, at| note(word, 1, at as u64 + 1));
    (postings, total)
}

/// Writes a document's postings, and takes out those that it no longer has.
fn replace_postings(store: &mut impl Store, id: &str, new: &BTreeMap<String, Posting>, words: u64) -> Result<(), String> {
    let mut old = BTreeSet::new();
    let mut pieces = 0;
    while let Some(piece) = store.get(&format!("f/{id}/{}", base36(pieces))) {
        let piece = String::from_utf8(piece).map_err(|_| format!("the postings of document {id} are damaged"))?;
        old.extend(piece.lines().map(str::to_owned));
        pieces += 1;
    }
    let (mut list, mut written) = (String::new(), 0);
    let words = base36(words);
    for (word, posting) in new {
        let key = format!("t/{word}/{id}/{}.{words}.{}", base36(posting.count), base36(posting.first));
        if !old.remove(&key) {
            store.set(&key, &[])?;
        }
        list.push_str(&key);
        list.push('\n');
        if list.len() > PIECE {
            store.set(&format!("f/{id}/{}", base36(written)), list.as_bytes())?;
            (written, list) = (written + 1, String::new());
        }
    }
    if !list.is_empty() {
        store.set(&format!("f/{id}/{}", base36(written)), list.as_bytes())?;
        written += 1;
    }
    (written..pieces).try_for_each(|n| store.delete(&format!("f/{id}/{}", base36(n))))?;
    old.iter().try_for_each(|key| store.delete(key))
}

/// A title for a document that has none: its first line, or its path.
fn heading(path: &str, text: &str) -> String {
    let line = text.lines().map(|line| line.trim_start_matches('#').trim()).find(|line| !line.is_empty());
    line.unwrap_or(path).chars().take(MAX_TITLE).collect()
}

fn base36(mut number: u64) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut digits = Vec::new();
    loop {
        digits.push(DIGITS[(number % 36) as usize]);
        number /= 36;
        if number == 0 {
            break;
        }
    }
    digits.into_iter().rev().map(char::from).collect()
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, String> {
    serde_json::to_vec(value).map_err(|error| error.to_string())
}

fn read<T: for<'a> Deserialize<'a>>(what: &str, bytes: &[u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("the stored {what} is damaged: {error}"))
}
