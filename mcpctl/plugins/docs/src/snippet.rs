//! The piece of a text that shows a match.

/// Bytes shown before the match.
pub const BEFORE: usize = 80;
/// Bytes shown from the match on.
pub const AFTER: usize = 160;

/// Makes a snippet of `window`, bytes of a text that may begin and end within a character or word.
///
/// `starts` and `ends` say whether the window does so with the text. White space becomes single spaces.
pub fn snippet(window: &[u8], starts: bool, ends: bool) -> String {
    let text = String::from_utf8_lossy(window);
    // Characters that the window cuts through are at its ends alone: the text was valid.
    let text = text.trim_matches(char::REPLACEMENT_CHARACTER);
    let mut words: Vec<&str> = text.split_whitespace().collect();
    let cut_before = !starts && !text.starts_with(char::is_whitespace) && words.len() > 2;
    let cut_after = !ends && !text.ends_with(char::is_whitespace) && words.len() > 2;
    if cut_after {
        words.pop();
    }
    let words = &words[usize::from(cut_before)..];
    let mut snippet = words.join(" ");
    if !starts {
        snippet.insert_str(0, "… ");
    }
    if !ends {
        snippet.push_str(" …");
    }
    snippet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_words_and_ellipses() {
        assert_eq!(snippet(b"one two\n\n three", true, true), "one two three");
        assert_eq!(snippet(b"ne two three fo", false, false), "… two three …");
        assert_eq!(snippet("é two three é".as_bytes().get(1..13).expect("cut"), false, false), "… two three …");
        assert_eq!(snippet(b"one two three fo", true, false), "one two three …");
        assert_eq!(snippet(b"", true, true), "");
        assert_eq!(snippet(b"unbroken", false, false), "… unbroken …");
    }
}
