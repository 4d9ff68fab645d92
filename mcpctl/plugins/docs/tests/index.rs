//! The index over an ordered map in memory.

use std::collections::BTreeMap;

use docs::index::{Hit, Store, index, search, stats};

#[derive(Default, Clone, PartialEq, Debug)]
struct Map {
    keys: BTreeMap<String, Vec<u8>>,
    written: usize,
}

impl Store for Map {
    fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.keys.get(key).cloned()
    }

    fn set(&mut self, key: &str, value: &[u8]) -> Result<(), String> {
        assert!(key.len() <= 1024, "{key}");
        self.written += 1;
        self.keys.insert(key.to_owned(), value.to_vec());
        Ok(())
    }

    fn delete(&mut self, key: &str) -> Result<(), String> {
        self.written += 1;
        assert!(self.keys.remove(key).is_some(), "{key} was there");
        Ok(())
    }

    fn list(&self, prefix: &str, after: Option<&str>, limit: u32) -> Vec<String> {
        let keys = self.keys.keys().filter(|key| key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after));
        keys.take(limit as usize).cloned().collect()
    }
}

fn filled() -> Map {
    let mut map = Map::default();
    let documents = [
        ("a.md", "# Foxes\nThe quick brown fox jumps over the lazy dog."),
        ("b.md", "Dogs\n\nA dog barks. Another dog sleeps. Every dog has its day."),
        ("c.md", "Ships sail the seven seas, far from any harbour."),
    ];
    documents.iter().for_each(|(path, text)| drop(index(&mut map, path, None, text).expect("indexed")));
    map
}

fn paths(map: &Map, query: &str) -> Vec<String> {
    search(map, query, 10).expect("searched").0.into_iter().map(|hit| hit.path).collect()
}

#[test]
fn the_best_answer_comes_first() {
    let map = filled();
    assert_eq!(paths(&map, "DOG"), ["b.md", "a.md"]);
    assert_eq!(paths(&map, "lazy dog"), ["a.md", "b.md"], "the rare word weighs more");
    assert_eq!(paths(&map, "harbour whale"), ["c.md"]);
    assert_eq!(paths(&map, "whale"), Vec::<String>::new());
    assert_eq!(paths(&map, "do"), Vec::<String>::new(), "a part of a word is another word");
    let (hits, total) = search(&map, "the", 1).expect("searched");
    assert_eq!((hits.len(), total), (1, 2));
    let Hit { title, snippet, score, .. } = &search(&map, "jumps", 1).expect("searched").0[0];
    assert_eq!(title, "Foxes");
    assert!(snippet.contains("quick brown fox jumps over") && *score > 0.0, "{snippet}");
}

#[test]
fn indexing_again_replaces_exactly() {
    let mut map = filled();
    let (before, counts) = (map.clone(), stats(&map).expect("stats"));
    index(&mut map, "b.md", Some("Cats"), &"A cat purrs. ".repeat(3000)).expect("indexed");
    assert_eq!(paths(&map, "dog"), ["a.md"]);
    assert_eq!(paths(&map, "cats purrs"), ["b.md"]);
    assert_eq!(stats(&map).expect("stats").documents, 3);
    index(&mut map, "b.md", None, "Dogs\n\nA dog barks. Another dog sleeps. Every dog has its day.").expect("indexed");
    assert_eq!(map.keys, before.keys, "nothing of what was in between is left");
    assert_eq!(stats(&map).expect("stats"), counts);
    index(&mut map, "b.md", None, "").expect("an empty text is a text");
    assert_eq!(paths(&map, "dog"), ["a.md"]);
}

#[test]
fn indexing_costs_what_the_document_has() {
    let mut map = Map::default();
    let text = |i: usize| format!("document number {i} says word{} and word{}", i % 7, i % 11);
    for i in 0..3000 {
        index(&mut map, &format!("{i}.txt"), Some("one"), &text(i)).expect("indexed");
    }
    let before = map.written;
    let document = index(&mut map, "last.txt", Some("one"), &text(3000)).expect("indexed");
    assert!(map.written - before <= document.terms as usize + 5, "{} writes", map.written - before);
    let before = map.written;
    index(&mut map, "last.txt", Some("one"), &text(3000)).expect("indexed");
    assert!(map.written - before <= 5, "the same document again writes no posting");
    assert_eq!(search(&map, "word3", 5).expect("searched").1, 3001 / 7 + 3001 / 11 + 1 - 3001 / 77);
    assert_eq!(search(&map, "document", 100).expect("searched").1, 3001);
}

#[test]
fn a_match_deep_in_a_long_text_is_shown() {
    let mut map = Map::default();
    let mut text = "grüße und füllwörter ".repeat(3000);
    text.push_str("hier liegt die nadel im heu ");
    text.push_str(&"weitere füllwörter ".repeat(3000));
    let document = index(&mut map, "heu.txt", None, &text).expect("indexed");
    assert_eq!(document.bytes as usize, text.len());
    let hit = &search(&map, "NADEL", 1).expect("searched").0[0];
    assert!(
        hit.snippet.starts_with("… ") && hit.snippet.contains("liegt die nadel im heu") && hit.snippet.ends_with(" …"),
        "{}",
        hit.snippet
    );
    assert!(!hit.snippet.contains(char::REPLACEMENT_CHARACTER));
}

#[test]
fn a_title_finds_its_document() {
    let mut map = filled();
    index(&mut map, "d.md", Some("Handbook of Navigation"), "Chapter one.").expect("indexed");
    let hit = &search(&map, "navigation", 1).expect("searched").0[0];
    assert_eq!((hit.path.as_str(), hit.snippet.as_str()), ("d.md", "Chapter one."));
}
