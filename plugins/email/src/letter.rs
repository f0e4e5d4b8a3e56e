//! The look of our own mails: one layout for all, as HTML and as text, with the brand of the
//! platform.

use crate::settings::Brand;
use crate::template::escape;

/// Used where the brand has none.
const DEFAULT_COLOR: &str = "#2457d6";

/// A mail before it has a look.
#[derive(Debug, Default)]
pub struct Letter {
    pub title: String,
    pub paragraphs: Vec<String>,
    /// Shown large: a one-time password.
    pub highlight: Option<String>,
    /// Label and value.
    pub rows: Vec<(&'static str, String)>,
    /// Label and address.
    pub button: Option<(&'static str, String)>,
}

impl Letter {
    pub fn text(&self, brand: &Brand) -> String {
        let mut blocks: Vec<String> = self.paragraphs.clone();
        blocks.extend(self.highlight.clone());
        if !self.rows.is_empty() {
            blocks.push(
                self.rows
                    .iter()
                    .map(|(label, value)| format!("{label}: {value}"))
                    .collect::<Vec<_>>()
                    .join("\n"),
            );
        }
        blocks.extend(
            self.button
                .as_ref()
                .map(|(label, url)| format!("{label}: {url}")),
        );
        blocks.push(format!("--\n{}", signature(brand).join("\n")));
        blocks.join("\n\n")
    }

    pub fn html(&self, brand: &Brand) -> String {
        let color = brand.color.as_deref().unwrap_or(DEFAULT_COLOR);
        let mut body = String::new();
        for paragraph in &self.paragraphs {
            body.push_str(&format!("<p>{}</p>", escape(paragraph)));
        }
        if let Some(highlight) = &self.highlight {
            body.push_str(&format!(
                "<p style=\"font-size:28px;letter-spacing:6px;font-weight:bold;color:{color}\">{}</p>",
                escape(highlight)
            ));
        }
        if !self.rows.is_empty() {
            let row = |(label, value): &(&str, String)| {
                format!(
                    "<tr><td style=\"padding:4px 16px 4px 0;color:#666\">{label}</td><td>{}</td></tr>",
                    escape(value)
                )
            };
            body.push_str(&format!(
                "<table>{}</table>",
                self.rows.iter().map(row).collect::<String>()
            ));
        }
        if let Some((label, url)) = &self.button {
            body.push_str(&format!(
                "<p><a href=\"{}\" style=\"background:{color};color:#fff;padding:10px 18px;border-radius:4px;text-decoration:none\">{label}</a></p>",
                escape(url)
            ));
        }
        let logo = brand
            .logo_url
            .as_ref()
            .map(|url| format!("<img src=\"{}\" alt=\"\" height=\"40\">", escape(url)));
        let footer: Vec<String> = signature(brand).iter().map(|line| escape(line)).collect();
        format!(
            "<!doctype html><html><body style=\"font-family:sans-serif;color:#222;max-width:600px;margin:auto\">\
             {}<h2 style=\"color:{color}\">{}</h2>{body}<hr><p style=\"color:#888;font-size:12px\">{}</p></body></html>",
            logo.unwrap_or_default(),
            escape(&self.title),
            footer.join("<br>")
        )
    }
}

fn signature(brand: &Brand) -> Vec<String> {
    let mut lines = vec![
        brand
            .name
            .clone()
            .unwrap_or_else(|| "This is an automatic message.".into()),
    ];
    lines.extend(
        brand
            .support_email
            .as_ref()
            .map(|address| format!("Questions: {address}")),
    );
    lines.extend(brand.footer.clone());
    lines
}
