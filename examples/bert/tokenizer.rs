//! Text to the numbers that BERT reads: the uncased WordPiece tokenizer (Devlin et al., 2018).

use std::{collections::HashMap, error::Error, fs, path::Path};

use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory};

/// Words of more characters are unknown.
const LONGEST_WORD: usize = 100;

pub struct Tokenizer {
    /// By number.
    vocabulary: Vec<String>,
    numbers: HashMap<String, u32>,
    start: u32,
    separator: u32,
    unknown: u32,
}

/// What the model reads at once: a sentence or a pair of them.
#[derive(Clone)]
pub struct Input {
    /// `[CLS] first [SEP]` or `[CLS] first [SEP] second [SEP]`
    pub tokens: Vec<u32>,
    /// The sentence of each token, 0 or 1.
    pub segments: Vec<usize>,
}

impl Tokenizer {
    /// Reads a `vocab.txt`: a token a line.
    pub fn read(path: &Path) -> Result<Self, Box<dyn Error>> {
        let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Self::new(text.lines()).map_err(|error| format!("{}: {error}", path.display()).into())
    }

    fn new<'a>(vocabulary: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let vocabulary: Vec<String> = vocabulary.map(str::to_owned).collect();
        let numbers: HashMap<String, u32> = vocabulary.iter().cloned().zip(0..).collect();
        let special = |token: &str| numbers.get(token).copied().ok_or_else(|| format!("there is no {token}"));
        let (start, separator, unknown) = (special("[CLS]")?, special("[SEP]")?, special("[UNK]")?);
        Ok(Self { vocabulary, numbers, start, separator, unknown })
    }

    /// Of a sentence, or of two to be read together.
    pub fn encode(&self, sentence: &str, second: Option<&str>) -> Input {
        let mut input = Input { tokens: vec![self.start], segments: vec![0] };
        for (segment, sentence) in [Some(sentence), second].into_iter().flatten().enumerate() {
            for word in words(sentence) {
                match self.pieces(&word) {
                    Some(pieces) => input.tokens.extend(pieces),
                    None => input.tokens.push(self.unknown),
                }
            }
            input.tokens.push(self.separator);
            input.segments.resize(input.tokens.len(), segment);
        }
        input
    }

    /// How many tokens it knows.
    pub fn len(&self) -> usize {
        self.vocabulary.len()
    }

    pub fn token(&self, number: u32) -> &str {
        self.vocabulary.get(number as usize).map_or("?", String::as_str)
    }

    /// The longest token that the word begins with, then the longest that its rest begins with, and so on. Tokens within a
    /// word begin with `##`.
    fn pieces(&self, word: &str) -> Option<Vec<u32>> {
        if word.chars().count() > LONGEST_WORD {
            return None;
        }
        let (mut pieces, mut rest, mut mark) = (Vec::new(), word, "");
        while !rest.is_empty() {
            let ends = rest.char_indices().rev().map(|(i, c)| i + c.len_utf8());
            let longest = |end| Some((*self.numbers.get(&format!("{mark}{}", &rest[..end]))?, end));
            let (number, end) = { ends }.find_map(longest)?;
            pieces.push(number);
            (rest, mark) = (&rest[end..], "##");
        }
        Some(pieces)
    }
}

/// Lower-case words without accents; each punctuation mark and each ideograph is one of its own.
fn words(text: &str) -> Vec<String> {
    let plain = text.chars().filter(|&c| !is_invisible(c)).nfd();
    let plain = plain.filter(|c| c.general_category() != GeneralCategory::NonspacingMark).flat_map(char::to_lowercase);
    let (mut words, mut is_open) = (Vec::<String>::new(), false);
    for c in plain {
        let stands_alone = is_punctuation(c) || is_ideograph(c);
        match words.last_mut() {
            _ if c.is_whitespace() => {}
            Some(word) if is_open && !stands_alone => word.push(c),
            _ => words.push(c.into()),
        }
        is_open = !stands_alone && !c.is_whitespace();
    }
    words
}

/// Control and format characters, and what stands for broken text.
fn is_invisible(c: char) -> bool {
    use GeneralCategory::{Control, Format, PrivateUse};
    match c {
        '\t' | '\n' | '\r' => false,
        char::REPLACEMENT_CHARACTER => true,
        _ => matches!(c.general_category(), Control | Format | PrivateUse),
    }
}

fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation() || c.general_category_group() == GeneralCategoryGroup::Punctuation
}

/// The ideographs of Chinese, Japanese and Korean that BERT reads one by one.
fn is_ideograph(c: char) -> bool {
    matches!(c,
        '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{2a6df}'
        | '\u{2a700}'..='\u{2b81f}' | '\u{2b920}'..='\u{2ceaf}' | '\u{2f800}'..='\u{2fa1f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_told_apart() {
        assert_eq!(words("Don't\tSTOP!\n"), ["don", "'", "t", "stop", "!"]);
        assert_eq!(words(" Café, nai\u{308}ve\u{a0}Ångström "), ["cafe", ",", "naive", "angstrom"]);
        assert_eq!(words("a\u{200b}b\u{0}c\u{fffd} «x»"), ["abc", "«", "x", "»"]);
        assert_eq!(words("東京は, ΟΔΟΣ"), ["東", "京", "は", ",", "οδοσ"]);
        assert!(words(" \r\n").is_empty());
    }

    #[test]
    fn pieces_are_the_longest_ones() -> Result<(), String> {
        let vocabulary = ["[CLS]", "[SEP]", "[UNK]", "un", "##able", "##ab", "##a", "u", "é"];
        let tokenizer = Tokenizer::new(vocabulary.into_iter())?;
        let input = tokenizer.encode("unable UNA", Some("u unx"));
        let tokens: Vec<&str> = input.tokens.iter().map(|&number| tokenizer.token(number)).collect();
        assert_eq!(tokens, ["[CLS]", "un", "##able", "un", "##a", "[SEP]", "u", "[UNK]", "[SEP]"]);
        assert_eq!(input.segments, [0, 0, 0, 0, 0, 0, 1, 1, 1]);
        assert_eq!(tokenizer.encode(&"u".repeat(101), None).tokens, [0, 2, 1]);
        assert!(Tokenizer::new(["[CLS]", "[SEP]"].into_iter()).is_err());
        Ok(())
    }
}
