//! A matrix of weights as a picture, shared by the examples: what each row attends to, for a terminal and as SVG.

mod color;
mod svg;
mod terminal;

use std::{error::Error, fmt, fs, path::Path};

pub use terminal::Terminal;

/// Weights from 0 up, `[rows, columns]` row by row, with a label for every row and column.
///
/// Colours are shared out linearly between zero and the largest weight; the legend gives the numbers.
pub struct Heatmap<'a> {
    pub title: &'a str,
    pub rows: Axis<'a>,
    pub columns: Axis<'a>,
    pub weights: &'a [f32],
}

/// What the rows or the columns stand for, and the label of each.
#[derive(Clone, Copy)]
pub struct Axis<'a> {
    pub name: &'a str,
    pub labels: &'a [String],
}

impl Heatmap<'_> {
    /// To be printed: one line a row, cells in colours or in the shades ` ░▒▓█`.
    pub fn terminal(&self, terminal: Terminal) -> impl fmt::Display {
        fmt::from_fn(move |f| terminal.write(self, f))
    }

    /// A whole SVG document. The cells tell their weights when they are pointed at.
    pub fn svg(&self) -> impl fmt::Display {
        fmt::from_fn(|f| svg::write(self, f))
    }

    /// Writes the SVG document to a file, in a folder that may not exist yet.
    pub fn save(&self, path: &Path) -> Result<(), Box<dyn Error>> {
        let write = || {
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            fs::write(path, self.svg().to_string())
        };
        Ok(write().map_err(|error| format!("{}: {error}", path.display()))?)
    }

    /// Each row's label and weights.
    fn labelled_rows(&self) -> impl Iterator<Item = (&str, &[f32])> {
        let rows = self.weights.chunks(self.columns.labels.len().max(1));
        self.rows.labels.iter().map(String::as_str).zip(rows)
    }

    /// The largest weight; 1 if none is positive.
    fn max(&self) -> f32 {
        let max = self.weights.iter().copied().fold(0.0, f32::max);
        if max > 0.0 { max } else { 1.0 }
    }

    /// Where a weight lies between zero and the largest one, from 0 to 1; 0 for NaN.
    fn intensity(&self, weight: f32) -> f32 {
        (weight / self.max()).max(0.0)
    }
}

impl Axis<'_> {
    /// Characters of the longest label.
    fn longest(&self) -> usize {
        self.labels.iter().map(|label| label.chars().count()).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(labels: &[&str]) -> Vec<String> {
        labels.iter().map(|&label| label.to_owned()).collect()
    }

    /// Draws `[[0.0, 0.5], [1.0, NaN]]`.
    fn draw<T>(draw: impl FnOnce(Heatmap<'_>) -> T) -> T {
        draw(Heatmap {
            title: "a <picture> & its \"title\"",
            rows: Axis { name: "query", labels: &labels(&["it", "<&>"]) },
            columns: Axis { name: "key", labels: &labels(&["the", "animal"]) },
            weights: &[0.0, 0.5, 1.0, f32::NAN],
        })
    }

    #[test]
    fn a_plain_terminal_shows_shades_under_vertical_labels() {
        let picture = draw(|heatmap| heatmap.terminal(Terminal { color: false, width: 80 }).to_string());
        let expected = "\
a <picture> & its \"title\"

      a
      n
      i
    t m
    h a
    e l
 it · ▓▓
<&> ██·
";
        assert!(picture.starts_with(expected), "{picture}");
        assert!(!picture.contains('\x1b'), "{picture}");
    }

    #[test]
    fn cells_become_narrow_where_wide_ones_do_not_fit() {
        let picture = draw(|heatmap| heatmap.terminal(Terminal { color: false, width: 7 }).to_string());
        assert!(picture.contains("\n it ·▓\n<&> █·\n"), "{picture}");
    }

    #[test]
    fn colors_end_with_their_line() {
        let picture = draw(|heatmap| heatmap.terminal(Terminal { color: true, width: 80 }).to_string());
        for line in picture.lines().filter(|line| line.contains('\x1b')) {
            assert!(line.trim_end().contains("\x1b[0m"), "{line}");
        }
        assert!(picture.contains("\x1b[48;2;8;48;107m"), "the largest weight is darkest: {picture}");
    }

    #[test]
    fn svg_escapes_its_text_and_closes_its_elements() {
        let svg = draw(|heatmap| heatmap.svg().to_string());
        assert!(svg.contains("a &lt;picture&gt; &amp; its &quot;title&quot;"), "{svg}");
        assert!(svg.contains("<title>it → animal: 0.50</title>"), "{svg}");
        assert!(!svg.contains("NaN"), "{svg}");
        for element in ["svg", "g", "text", "title", "pattern", "linearGradient"] {
            let opened = svg.matches(&format!("<{element} ")).count() + svg.matches(&format!("<{element}>")).count();
            assert_eq!(opened, svg.matches(&format!("</{element}>")).count(), "{element} in {svg}");
        }
    }

    #[test]
    fn an_empty_matrix_is_drawn_too() {
        let axis = Axis { name: "none", labels: &[] };
        let heatmap = Heatmap { title: "", rows: axis, columns: axis, weights: &[] };
        assert!(heatmap.svg().to_string().ends_with("</svg>\n"));
        assert!(heatmap.terminal(Terminal { color: false, width: 80 }).to_string().contains("0.00"));
    }
}
