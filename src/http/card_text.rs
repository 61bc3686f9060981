//! Cards of models as texts. What people named may hold any sign, so it is escaped wherever it is shown.

use std::fmt::Write;

use pulldown_cmark::{Event, Options, Parser};

use super::card::{CardColumnView, CardView};
use crate::domain::limits::CARD_COLUMNS;

/// A card as Markdown, with tables as GitHub has them.
pub fn markdown(card: &CardView) -> String {
    let mut text = Text(String::new());
    text.head(card);
    text.data(card);
    text.training(card);
    text.figures(card);
    text.calibration(card);
    text.questions(card);
    text.lineage(card);
    text.spec(card);
    text.0
}

/// A card as a page.
pub fn html(card: &CardView) -> String {
    let text = markdown(card);
    // Nothing in it is meant as HTML.
    let events = Parser::new_ext(&text, Options::ENABLE_TABLES).map(|event| match event {
        Event::Html(html) | Event::InlineHtml(html) => Event::Text(html),
        other => other,
    });
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>{}</title>\n<style>{STYLE}</style>\n",
        title(card)
    );
    pulldown_cmark::html::push_html(&mut page, events);
    page
}

const STYLE: &str = "body{font-family:sans-serif;max-width:60em;margin:2em auto;padding:0 1em;line-height:1.5}\
table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:.2em .6em;text-align:left}\
pre{background:#f4f4f4;padding:1em;overflow:auto}";

/// The name of a model. Names of the registry are plain; that of a job is any text.
fn title(card: &CardView) -> String {
    let name = card.name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    card.version.map_or_else(|| name.clone(), |version| format!("{name}:{version}"))
}

/// Text as Markdown that shows it as it is.
fn plain(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for sign in text.chars() {
        match sign {
            '\n' | '\r' | '\t' => escaped.push(' '),
            // Every sign of ASCII may be escaped in Markdown.
            _ if sign.is_ascii_punctuation()
                && !matches!(sign, '.' | ',' | '/' | ':' | ';' | '?' | '%' | '\'' | '"') =>
            {
                escaped.push('\\');
                escaped.push(sign);
            }
            _ => escaped.push(sign),
        }
    }
    escaped
}

fn number(value: f64) -> String {
    match value.abs() {
        size if size == 0.0 || (1e-4..1e7).contains(&size) => {
            format!("{:.4}", value).trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        _ => format!("{value:.4e}"),
    }
}

struct Text(String);

impl Text {
    fn line(&mut self, line: impl AsRef<str>) {
        self.0 += line.as_ref();
        self.0.push('\n');
    }

    fn heading(&mut self, heading: &str) {
        let _ = writeln!(self.0, "\n## {heading}\n");
    }

    fn table(&mut self, head: &[&str], rows: impl Iterator<Item = Vec<String>>) {
        self.line(format!("| {} |", head.join(" | ")));
        self.line(format!("|{}", "---|".repeat(head.len())));
        for row in rows {
            self.line(format!("| {} |", row.join(" | ")));
        }
    }

    fn head(&mut self, card: &CardView) {
        let version = card.version.map_or_else(String::new, |version| format!(":{version}"));
        self.line(format!("# {}{version}\n", plain(&card.name)));
        self.line(format!("{}\n", plain(card.family.summary)));
        let mut rows = vec![
            vec!["id".to_owned(), format!("`{}`", card.id)],
            vec!["made".to_owned(), card.created_at.clone()],
            vec!["family".to_owned(), format!("`{}`", card.family.family)],
            vec!["minimises".to_owned(), plain(card.family.formula)],
            vec!["paper".to_owned(), plain(card.family.paper)],
            vec!["width of the code".to_owned(), card.family.latent.to_string()],
        ];
        if !card.aliases.is_empty() {
            rows.insert(1, vec!["aliases".to_owned(), card.aliases.join(", ")]);
        }
        if let Some(parameters) = card.family.parameters {
            rows.push(vec!["parameters".to_owned(), parameters.to_string()]);
        }
        self.table(&["", ""], rows.into_iter());
    }

    fn data(&mut self, card: &CardView) {
        let data = &card.data;
        self.heading("Data");
        let name = data.dataset.as_deref().map_or("It was imported; its dataset is not here.".to_owned(), plain);
        let rows = data.rows.map_or_else(String::new, |rows| format!(", {rows} rows"));
        self.line(format!("{name}{rows}, {} columns.", data.columns.len()));
        if let Some(image) = data.image {
            self.line(format!("The columns are the pixels of an image of {image}."));
        }
        if let Some(split) = &data.split {
            let (train, validation, test) = (split.train, split.validation, split.test);
            self.line(format!("{train} rows trained, {validation} validated, {test} tested."));
        }
        self.line("");
        let row = |column: &CardColumnView| {
            let (kind, role) = (column.kind.as_str(), crate::data::dataset::Role::ALL);
            let role = role.iter().find(|(_, role)| *role == column.role).map_or("", |(name, _)| name);
            let missing = column.missing.map_or_else(String::new, |share| format!("{} %", number(share * 100.0)));
            let values = match (column.levels, column.range) {
                (Some(levels), _) => format!("{levels} levels"),
                (None, Some([low, high])) => format!("{} to {}", number(low), number(high)),
                (None, None) => String::new(),
            };
            vec![plain(&column.name), kind.to_owned(), role.to_owned(), missing, values]
        };
        self.table(&["column", "kind", "role", "missing", "values"], data.columns.iter().take(CARD_COLUMNS).map(row));
        if let Some(more @ 1..) = data.columns.len().checked_sub(CARD_COLUMNS) {
            self.line(format!("\nAnd {more} more columns."));
        }
    }

    fn training(&mut self, card: &CardView) {
        let Some(training) = &card.training else { return };
        self.heading("Training");
        let mut rows = vec![vec!["seed".to_owned(), training.seed.to_string()]];
        let epochs = training.epochs.map_or("?".to_owned(), |epochs| epochs.to_string());
        rows.push(vec!["epochs".to_owned(), format!("{epochs} of {}", training.epochs_asked)]);
        let reason = training.stop_reason.and_then(|reason| serde_json::to_value(reason).ok());
        if let Some(reason) = reason.as_ref().and_then(|reason| reason.as_str()) {
            rows.push(vec!["ended".to_owned(), plain(reason)]);
        }
        if let Some(seconds) = training.seconds {
            rows.push(vec!["seconds".to_owned(), number(seconds)]);
        }
        if let Some(device) = &training.device {
            rows.push(vec!["device".to_owned(), plain(device)]);
        }
        rows.push(vec!["attempts".to_owned(), training.attempts.to_string()]);
        self.table(&["", ""], rows.into_iter());
    }

    fn figures(&mut self, card: &CardView) {
        if card.figures.is_empty() {
            return;
        }
        self.heading("Figures");
        self.line("Losses are in nats per row; errors are in scaled units.\n");
        let rows = card.figures.iter().flat_map(|(part, figures)| {
            figures.iter().map(move |(name, value)| vec![plain(part), plain(name), number(*value)])
        });
        self.table(&["of", "figure", "value"], rows);
    }

    fn calibration(&mut self, card: &CardView) {
        let Some(known) = &card.calibration else { return };
        self.heading("Calibration");
        let held_out = if known.held_out { "held out" } else { "seen in training" };
        self.line(format!("How strange {} ordinary rows are ({held_out}), in nats.\n", known.rows));
        let values = |name: &str, values: &[f32]| {
            let mut row = vec![name.to_owned()];
            row.extend(values.iter().map(|value| number(f64::from(*value))));
            row
        };
        let mut rows = vec![values("what going through the code loses", &known.reconstruction)];
        if let Some(density) = &known.log_likelihood {
            rows.push(values("minus log p(x)", density));
        }
        self.table(&["", "half", "95 of 100", "99 of 100"], rows.into_iter());
    }

    fn questions(&mut self, card: &CardView) {
        self.heading("What to ask it");
        for question in &card.questions {
            self.line(format!("{}\n\n```sh\n{}\n```\n", plain(question.purpose), question.curl));
        }
    }

    fn lineage(&mut self, card: &CardView) {
        self.heading("Where it comes from");
        let lineage = &card.lineage;
        let code = |id: &dyn std::fmt::Display| format!("`{id}`");
        let mut rows = Vec::new();
        let mut row = |what: &str, value: Option<String>| rows.extend(value.map(|value| vec![what.to_owned(), value]));
        row("job", lineage.job_id.map(|id| code(&id)));
        row("tries again", lineage.parent_job_id.map(|id| code(&id)));
        row("dataset", lineage.dataset_id.map(|id| code(&id)));
        row("its version", lineage.dataset_version.map(|version| version.to_string()));
        row("made of", lineage.dataset_parent_id.map(|id| code(&id)));
        row("deleted since", lineage.dataset_deleted.filter(|deleted| *deleted).map(|_| "yes".to_owned()));
        row("SHA-256 of its file", lineage.dataset_sha256.as_ref().map(|sha256| code(sha256)));
        row("model file", Some(format!("{}, {} bytes", card.artifact.format, card.artifact.bytes)));
        row("SHA-256 of it", Some(code(&card.artifact.sha256)));
        self.table(&["", ""], rows.into_iter());
    }

    fn spec(&mut self, card: &CardView) {
        self.heading("Spec");
        // A fence longer than any in it. JSON escapes line ends, so no line of a text begins with one.
        let spec = serde_json::to_string_pretty(&card.spec).unwrap_or_default();
        self.line(format!("````json\n{spec}\n````"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_wrote_is_shown_as_it_is() {
        assert_eq!(plain("a|b\n<script>*x*"), "a\\|b \\<script\\>\\*x\\*");
        assert_eq!(plain("größe 3.5 %"), "größe 3.5 %");
        let mut page = String::new();
        pulldown_cmark::html::push_html(&mut page, Parser::new(&plain("<b>&amp; [x](y) `z`")));
        assert_eq!(page.trim(), "<p>&lt;b&gt;&amp;amp; [x](y) `z`</p>");
    }

    #[test]
    fn numbers_are_short_and_exact_enough() {
        for (value, text) in [(0.0, "0"), (3.0, "3"), (-0.12345, "-0.1235"), (1e9, "1.0000e9"), (0.00001, "1.0000e-5")]
        {
            assert_eq!(number(value), text);
        }
    }
}
