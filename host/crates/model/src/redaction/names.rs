//! Names that mean a secret, whoever chose them.

use unicode_normalization::UnicodeNormalization;

/// Words that mean a secret anywhere in a name, also in the plural.
const SECRET_WORDS: [&str; 10] = [
    "password",
    "passwd",
    "pwd",
    "passphrase",
    "passcode",
    "secret",
    "authorization",
    "credential",
    "otp",
    "cvv",
];
/// Words that mean a secret at the end of a name or its plural: `accessToken`, not `tokenCount`.
const SECRET_ENDS: [&str; 6] = ["token", "cookie", "pin", "pw", "cvc", "jwt"];
/// Pairs of words that mean a secret together.
const SECRET_PAIRS: [[&str; 2]; 16] = [
    ["api", "key"],
    ["access", "key"],
    ["private", "key"],
    ["secret", "key"],
    ["signing", "key"],
    ["pass", "word"],
    ["user", "pass"],
    ["admin", "pass"],
    ["root", "pass"],
    ["login", "pass"],
    ["auth", "pass"],
    ["db", "pass"],
    ["smtp", "pass"],
    ["mail", "pass"],
    ["email", "pass"],
    ["redis", "pass"],
];
/// Endings of joined words: `userpwd`, `clientsecret`, `smsotp`. No other word of English or code
/// ends so.
const JOINED_ENDS: [&str; 9] = [
    "password",
    "passwd",
    "pwd",
    "passphrase",
    "passcode",
    "secret",
    "apikey",
    "credential",
    "otp",
];
/// The same, only at the end of a name.
const JOINED_LAST: [&str; 1] = ["token"];
/// Beginnings of joined words: `passwordhash`.
const JOINED_BEGINS: [&str; 6] = [
    "password",
    "passwd",
    "pwd",
    "passphrase",
    "passcode",
    "apikey",
];
/// Whole joined words. Their beginnings alone would match others: `secretary`.
const JOINED: [&str; 17] = [
    "userpw",
    "dbpw",
    "accesskey",
    "privatekey",
    "signingkey",
    "secretkey",
    "secretid",
    "secretvalue",
    "secrettoken",
    "secretcode",
    "secretphrase",
    "otpcode",
    "otptoken",
    "otpvalue",
    "userpass",
    "dbpass",
    "smtppass",
];
/// Words that mean a key or a person at the end of a name or its plural, in data of unknown origin:
/// `cacheKey`, `userEmail`, not `emailsSent`.
const PERSONAL_ENDS: [&str; 5] = ["key", "hash", "email", "phone", "mobile"];
/// Pairs of words that mean a person together.
const PERSONAL_PAIRS: [[&str; 2]; 5] = [
    ["email", "address"],
    ["mail", "address"],
    ["e", "mail"],
    ["phone", "number"],
    ["mobile", "number"],
];
/// Next to these words, tokens are counted and are no secrets: `maxTokens`.
const COUNTED: [&str; 12] = [
    "max",
    "min",
    "total",
    "count",
    "num",
    "number",
    "used",
    "remaining",
    "prompt",
    "completion",
    "input",
    "output",
];

/// Whether a value of this name is a secret, whoever chose the name: `password`, `newPassword`,
/// `SMTP_PASS_WORD`, `x-api-key`, `accessToken`.
pub fn is_secret(name: &str) -> bool {
    readings(name).iter().any(|words| {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        words.iter().any(|word| is_secret_word(word))
            || ends_as_secret(&words)
            || has_pair(&words, &SECRET_PAIRS)
    })
}

/// Whether a value of this name is a secret, a key or means a person, in data of which nothing is
/// known but its names.
pub(super) fn is_sensitive(name: &str) -> bool {
    is_secret(name)
        || readings(name).iter().any(|words| {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let is_end = |word: &&str| {
                numbers(word)
                    .iter()
                    .any(|word| PERSONAL_ENDS.contains(word))
            };
            words.last().is_some_and(is_end) || has_pair(&words, &PERSONAL_PAIRS)
        })
}

/// Whether an object of this name holds only secrets.
pub(super) fn holds_secrets(name: &str) -> bool {
    let groups = ["secret", "credential", "authorization"];
    readings(name)
        .iter()
        .flatten()
        .any(|word| numbers(word).iter().any(|word| groups.contains(word)))
}

fn is_secret_word(word: &str) -> bool {
    numbers(word).iter().any(|word| {
        SECRET_WORDS.contains(word)
            || JOINED.contains(word)
            || JOINED_ENDS.iter().any(|end| word.ends_with(end))
            || JOINED_BEGINS.iter().any(|begin| word.starts_with(begin))
    })
}

fn ends_as_secret(words: &[&str]) -> bool {
    let Some((last, before)) = words.split_last() else {
        return false;
    };
    let is_count = last.ends_with('s') && before.last().is_some_and(|word| COUNTED.contains(word));
    let is_end = |word: &&str| {
        SECRET_ENDS.contains(word) || JOINED_LAST.iter().any(|end| word.ends_with(end))
    };
    !is_count && numbers(last).iter().any(is_end)
}

fn has_pair(words: &[&str], pairs: &[[&str; 2]]) -> bool {
    words.windows(2).any(|pair| {
        pairs
            .iter()
            .any(|[first, second]| pair[0] == *first && numbers(pair[1]).contains(second))
    })
}

/// The word, and its singular if it may be a plural.
fn numbers(word: &str) -> [&str; 2] {
    [word, word.strip_suffix('s').unwrap_or(word)]
}

/// The words of a name, in lower case and without digits. Consecutive capitals have two readings:
/// `SMTPPassword` is `SMTP Password`, but `APIkey` is not `AP Ikey`.
fn readings(name: &str) -> [Vec<String>; 2] {
    // Full-width letters and the like become plain ones.
    let letters: Vec<char> = name.nfkc().collect();
    [words(&letters, true), words(&letters, false)]
}

fn words(letters: &[char], parts_capitals: bool) -> Vec<String> {
    let mut words = vec![String::new()];
    for (place, &c) in letters.iter().enumerate() {
        let before = place.checked_sub(1).map(|place| letters[place]);
        let after = |places: usize| letters.get(place + places).copied();
        // `PINs` is the plural of a word in capitals.
        let is_plural = after(1) == Some('s') && !after(2).is_some_and(char::is_lowercase);
        let is_last_capital = parts_capitals
            && c.is_uppercase()
            && before.is_some_and(char::is_uppercase)
            && after(1).is_some_and(char::is_lowercase)
            && !is_plural;
        let is_after_small = c.is_uppercase() && before.is_some_and(char::is_lowercase);
        if !c.is_alphabetic() || is_after_small || is_last_capital {
            words.push(String::new());
        }
        if c.is_alphabetic()
            && let Some(word) = words.last_mut()
        {
            word.extend(c.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_mean_a_secret_are_known_in_every_spelling() {
        for name in [
            "password",
            "Password",
            "PASSWD",
            "newPassword",
            "smtp_password",
            "passwordHash",
            "client-secret",
            "otp",
            "otpCode",
            "Authorization",
            "api_key",
            "apiKey",
            "APIKEY",
            "APIkey",
            "x-api-key",
            "accessToken",
            "token",
            "reset_token",
            "credentials",
            "pin",
            "set-cookie",
            "private_key",
            "password1",
            "newpassword",
            "SMTPPassword",
            "OTPCode",
            "OTPs",
            "PINs",
            "otp1",
            "pwd1",
            "userpwd",
            "tokens",
            "apiKeys",
            "token1",
            "2faToken",
            "oauth2token",
            "csrftoken",
            "clientsecret",
            "secretkey",
            "secretKey",
            "pin2",
            "pw",
            "userPw",
            "db_pw",
            "passphrase",
            "APIKEY2",
            "smtpPass",
            "passwordhash",
            "smsotp",
            "ｐａｓｓｗｏｒｄ",
            "ＡＰＩ＿ＫＥＹ",
            "𝐩𝐚𝐬𝐬𝐰𝐨𝐫𝐝",
        ] {
            assert!(is_secret(name), "{name}");
        }
    }

    #[test]
    fn names_that_only_look_like_a_secret_are_shown() {
        for name in [
            "to",
            "subject",
            "tokenCount",
            "maxTokens",
            "promptTokens",
            "tokenizer",
            "tokenized",
            "shipping",
            "key",
            "keyword",
            "compass",
            "compassion",
            "passenger",
            "passport",
            "bypass",
            "pass",
            "passed",
            "boardingPass",
            "option",
            "options",
            "adoption",
            "author",
            "authorized",
            "spin",
            "spins",
            "pinned",
            "pinCode",
            "opinion",
            "secretary",
            "secretariat",
            "secretions",
            "cookieConsent",
            "monkeys",
            "",
            "__",
            "42",
        ] {
            assert!(!is_secret(name), "{name}");
        }
    }
}
