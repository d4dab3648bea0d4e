//! The [text format of Prometheus](https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format).

use std::fmt::{Display, Write as _};

/// A text in the format. Writing to a string cannot fail.
#[derive(Debug, Default)]
pub(crate) struct PrometheusText(String);

impl PrometheusText {
    /// Begins a metric.
    pub(crate) fn head(&mut self, name: &str, help: &str, kind: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// Writes one number of a metric. The values of the labels are escaped.
    pub(crate) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let before = if index == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{before}{label}=\"{}\"", escape(text));
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{end} {value}");
    }

    /// Writes a metric that is one number.
    pub(crate) fn number(&mut self, name: &str, help: &str, kind: &str, value: u64) {
        self.head(name, help, kind);
        self.sample(name, &[], value);
    }

    pub(crate) fn into_text(self) -> String {
        self.0
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut text = PrometheusText::default();
        text.head("seen_total", "What was seen.", "counter");
        text.sample("seen_total", &[("a", "x\\y"), ("b", "say \"hi\"\nbye")], 1.5);
        text.number("open", "What is open.", "gauge", 2);
        let expected = [
            "# HELP seen_total What was seen.",
            "# TYPE seen_total counter",
            r#"seen_total{a="x\\y",b="say \"hi\"\nbye"} 1.5"#,
            "# HELP open What is open.",
            "# TYPE open gauge",
            "open 2",
        ];
        assert_eq!(text.into_text().lines().collect::<Vec<_>>(), expected);
    }
}
