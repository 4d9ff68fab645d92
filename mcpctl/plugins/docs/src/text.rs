//! Words of a text, in the form in which they are compared.

/// The longest word in characters. What is longer is no word; its beginning identifies it well enough.
const MAX_WORD: usize = 64;

/// Calls `found` with each word, lower-cased, and the byte at which it begins.
///
/// A word is a run of letters and digits of any script. Apostrophes within it are left out (`don't` is `dont`), and
/// so are combining accents. Scripts that put no spaces between words give a word for each character.
pub fn words(text: &str, mut found: impl FnMut(&str, usize)) {
    let mut word = Word::default();
    let mut chars = text.char_indices().peekable();
    while let Some((at, char)) = chars.next() {
        if is_accent(char) {
            continue;
        }
        if stands_alone(char) {
            word.end(&mut found);
            word.push(at, char);
            word.end(&mut found);
        } else if char.is_alphanumeric() {
            word.push(at, char);
        } else if !(is_apostrophe(char) && chars.peek().is_some_and(|(_, next)| next.is_alphanumeric())) {
            word.end(&mut found);
        }
    }
    word.end(&mut found);
}

#[derive(Default)]
struct Word {
    text: String,
    start: usize,
    length: usize,
}

impl Word {
    fn push(&mut self, at: usize, char: char) {
        if self.length == 0 {
            self.start = at;
        }
        self.length += 1;
        if self.length <= MAX_WORD {
            // One letter may become two, of which the second may be an accent (the Turkish dotted I).
            let lower = char.to_lowercase().filter(|lower| !is_accent(*lower));
            self.text.extend(lower.map(|lower| if lower == 'ς' { 'σ' } else { lower }));
        }
    }

    fn end(&mut self, found: &mut impl FnMut(&str, usize)) {
        if !self.text.is_empty() {
            found(&self.text, self.start);
        }
        self.text.clear();
        self.length = 0;
    }
}

fn is_accent(char: char) -> bool {
    matches!(char, '\u{300}'..='\u{36f}' | '\u{1ab0}'..='\u{1aff}' | '\u{1dc0}'..='\u{1dff}' | '\u{20d0}'..='\u{20ff}' | '\u{ad}')
}

fn is_apostrophe(char: char) -> bool {
    matches!(char, '\'' | '\u{2019}')
}

/// Han, Hiragana, Katakana.
fn stands_alone(char: char) -> bool {
    matches!(char, '\u{3041}'..='\u{3096}' | '\u{30a1}'..='\u{30fa}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}'
        | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{323af}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<String> {
        let mut all = Vec::new();
        words(text, |word, at| {
            assert!(text.is_char_boundary(at));
            all.push(word.to_owned());
        });
        all
    }

    #[test]
    fn words_of_many_scripts() {
        assert_eq!(all("The QUICK-brown fox, 42 times!"), ["the", "quick", "brown", "fox", "42", "times"]);
        assert_eq!(all("ÄRGER Straße ΟΔΥΣΣΕΥΣ Ёлка İstanbul"), ["ärger", "straße", "οδυσσευσ", "ёлка", "istanbul"]);
        assert_eq!(all("don't ’tis rock'n'roll'"), ["dont", "tis", "rocknroll"]);
        assert_eq!(all("cafe\u{301} x"), ["cafe", "x"]);
        assert_eq!(all("全文検索 and 検索"), ["全", "文", "検", "索", "and", "検", "索"]);
        assert_eq!(all(" \n--- ... '"), Vec::<String>::new());
    }

    #[test]
    fn words_are_bounded_and_located() {
        assert_eq!(all(&"a".repeat(1000)), ["a".repeat(MAX_WORD)]);
        let mut at = Vec::new();
        words("é bc  (d)", |_, start| at.push(start));
        assert_eq!(at, [0, 3, 8]);
    }
}
