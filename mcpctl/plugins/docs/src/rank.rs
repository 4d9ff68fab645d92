//! Okapi BM25 (Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009).

/// How soon more of the same word stops counting.
const K1: f64 = 1.2;
/// How much a long document must say a word more often.
const B: f64 = 0.75;

/// The documents as a whole.
#[derive(Debug, Clone, Copy)]
pub struct Collection {
    /// How many there are.
    pub documents: u64,
    /// Words in all of them.
    pub words: u64,
}

impl Collection {
    /// How much a word tells that is in `documents` of them: more, the rarer it is, and never less than nothing.
    pub fn weight(&self, documents: u64) -> f64 {
        let (all, having) = (self.documents.max(documents) as f64, documents as f64);
        ((all - having + 0.5) / (having + 0.5)).ln_1p()
    }

    /// What `count` times a word of this weight add to the score of a document of `words` words.
    pub fn score(&self, weight: f64, count: u64, words: u64) -> f64 {
        let average = (self.words as f64 / self.documents.max(1) as f64).max(1.0);
        let count = count as f64;
        weight * count * (K1 + 1.0) / (count + K1 * (1.0 - B + B * words as f64 / average))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Collection = Collection { documents: 100, words: 10_000 };

    #[test]
    fn rare_words_short_documents_and_repetition_count_more() {
        assert!(ALL.weight(1) > ALL.weight(50));
        assert!(ALL.weight(100) > 0.0);
        assert!(ALL.score(1.0, 2, 100) > ALL.score(1.0, 1, 100));
        assert!(ALL.score(1.0, 1, 50) > ALL.score(1.0, 1, 500));
        let saturating = ALL.score(1.0, 2, 100) - ALL.score(1.0, 1, 100);
        assert!(ALL.score(1.0, 12, 100) - ALL.score(1.0, 11, 100) < saturating);
    }

    #[test]
    fn the_formula_is_that_of_the_paper() {
        let weight = ALL.weight(9);
        assert!((weight - (1.0f64 + 91.5 / 9.5).ln()).abs() < 1e-12);
        // A document of average length, the word once: (k1 + 1) / (1 + k1) = 1.
        assert!((ALL.score(weight, 1, 100) - weight).abs() < 1e-12);
    }

    #[test]
    fn an_empty_collection_divides_by_nothing() {
        let none = Collection { documents: 0, words: 0 };
        assert!(none.score(none.weight(0), 0, 0).is_finite());
    }
}
