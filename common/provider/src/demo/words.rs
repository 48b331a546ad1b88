//! Words and short texts of the demo provider, taken from the prompt where it has some.

use promptmill_domain::{Message, Role};

use super::draw::Draw;

const SPARE: [&str; 12] = [
    "amber", "bridge", "copper", "delta", "ember", "forest", "garden", "harbor", "island", "lantern",
    "meadow", "river",
];
const FIRST_NAMES: [&str; 8] = ["Ada", "Bruno", "Chloe", "Dmitri", "Elif", "Farid", "Greta", "Hiro"];
const LAST_NAMES: [&str; 8] = ["Arden", "Berg", "Costa", "Dahl", "Evans", "Fontaine", "Grau", "Holm"];
const CITIES: [&str; 6] = ["Oslo", "Porto", "Kyoto", "Quito", "Nairobi", "Tallinn"];
const COUNTRIES: [&str; 6] = ["Norway", "Portugal", "Japan", "Ecuador", "Kenya", "Estonia"];

/// At most so many words of the prompt are drawn from.
const MAX_WORDS: usize = 64;

/// The words the texts are made of.
#[derive(Debug)]
pub(super) struct Words(Vec<String>);

impl Words {
    /// The plain words of the last thing the user said.
    pub(super) fn of(messages: &[Message]) -> Self {
        let prompt =
            messages.iter().rev().find(|message| message.role == Role::User).map_or("", |m| &m.content);
        let plain =
            |word: &&str| (3..=16).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_alphabetic());
        let words: Vec<String> = prompt
            .split(|c: char| !c.is_alphanumeric())
            .filter(plain)
            .take(MAX_WORDS)
            .map(str::to_ascii_lowercase)
            .collect();
        if words.len() < 3 { Self(SPARE.map(str::to_owned).to_vec()) } else { Self(words) }
    }

    /// One word.
    pub(super) fn word(&self, draw: &mut Draw) -> String {
        draw.pick(&self.0).map_or_else(|| "word".to_owned(), Clone::clone)
    }

    /// A few words.
    pub(super) fn phrase(&self, draw: &mut Draw) -> String {
        let count = draw.between(1, 3);
        (0..count).map(|_| self.word(draw)).collect::<Vec<_>>().join(" ")
    }

    /// One sentence of 6 to 14 words.
    pub(super) fn sentence(&self, draw: &mut Draw) -> String {
        let count = draw.between(6, 14);
        let mut text = (0..count).map(|_| self.word(draw)).collect::<Vec<_>>().join(" ");
        if let Some(first) = text.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        text.push('.');
        text
    }

    /// A text that suits a property of this name.
    pub(super) fn for_property(&self, name: &str, draw: &mut Draw) -> String {
        let name = name.to_ascii_lowercase();
        let has = |signs: &[&str]| signs.iter().any(|sign| name.contains(sign));
        let of = |list: &[&str], draw: &mut Draw| {
            draw.pick(list).map_or_else(String::new, |text| (*text).to_owned())
        };
        if has(&["city", "town"]) {
            of(&CITIES, draw)
        } else if has(&["country"]) {
            of(&COUNTRIES, draw)
        } else if has(&["email", "e_mail"]) {
            format!("{}@example.com", of(&FIRST_NAMES, draw).to_ascii_lowercase())
        } else if has(&["url", "link", "website"]) {
            format!("https://example.com/{}", self.word(draw))
        } else if has(&["author", "person", "customer", "full_name", "first_name", "last_name"])
            || name == "name"
        {
            format!("{} {}", of(&FIRST_NAMES, draw), of(&LAST_NAMES, draw))
        } else if has(&[
            "text",
            "description",
            "summary",
            "comment",
            "review",
            "reason",
            "answer",
            "body",
            "content",
        ]) {
            self.sentence(draw)
        } else {
            self.phrase(draw)
        }
    }
}
