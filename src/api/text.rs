//! Foreign text on its way into our records, logs and screens.
//!
//! What a client says of itself or of an error is never trusted to be harmless on a terminal or short.

/// `text` in at most `longest` bytes, with everything that could steer a terminal or reorder what a person reads
/// replaced.
#[must_use]
pub fn clean(text: &str, longest: usize) -> String {
    let mut out = String::with_capacity(text.len().min(longest));
    for letter in text.chars() {
        let letter = if steers(letter) { '\u{fffd}' } else { letter };
        if out.len() + letter.len_utf8() > longest {
            break;
        }
        out.push(letter);
    }
    out
}

/// Control characters (C0, C1), and the invisible ones that change direction or join (Unicode TR 36).
fn steers(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::clean;

    #[test]
    fn text_is_bounded_and_harmless() {
        assert_eq!(clean("a\u{1b}[31m\nb", 99), "a\u{fffd}[31m\u{fffd}b");
        assert_eq!(clean("x\u{202e}y", 99), "x\u{fffd}y");
        assert_eq!(clean("ééé", 5), "éé");
        assert_eq!(clean("", 0), "");
    }
}
