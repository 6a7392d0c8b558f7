//! The picture in characters.

use std::{
    fmt::{self, Write},
    io::{self, IsTerminal},
};

use super::{Heatmap, color::Color};

/// What the picture is printed to.
#[derive(Clone, Copy)]
pub struct Terminal {
    /// Whether it shows 24-bit colours.
    pub color: bool,
    /// Characters that fit into a line.
    pub width: usize,
}

/// Shades from the faintest, each with the intensity that it begins at.
const SHADES: [(f32, char); 5] = [(0.0, '·'), (0.05, '░'), (0.2, '▒'), (0.4, '▓'), (0.7, '█')];

/// Cells of the legend's scale.
const LEGEND: usize = 24;

impl Terminal {
    /// Standard output: in colours if it is a terminal, unless the environment says [`NO_COLOR`](https://no-color.org).
    pub fn stdout() -> Self {
        // Files and logs do not wrap their lines, and are read at some such width.
        const FILE_WIDTH: usize = 128;
        let color = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let width = terminal_size::terminal_size().map_or(FILE_WIDTH, |(width, _)| width.0.into());
        Self { color, width }
    }

    pub(super) fn write(self, heatmap: &Heatmap<'_>, f: &mut impl Write) -> fmt::Result {
        let margin = heatmap.rows.longest() + 1;
        // Two characters make a square.
        let cell = if margin + 2 * heatmap.columns.labels.len() <= self.width { 2 } else { 1 };
        writeln!(f, "{}\n", heatmap.title)?;
        write_column_labels(heatmap, margin, cell, f)?;
        for (label, weights) in heatmap.labelled_rows() {
            let cells = fmt::from_fn(|f| {
                weights.iter().try_for_each(|&weight| self.write_cell(heatmap.intensity(weight), cell, f))
            });
            write_line(&format!("{label:>width$} {cells}{}", self.reset(), width = margin - 1), f)?;
        }
        writeln!(f, "\n{:margin$}{}", "", self.legend(heatmap))?;
        writeln!(f, "{:margin$}rows: {}, columns: {}", "", heatmap.rows.name, heatmap.columns.name)
    }

    fn write_cell(self, intensity: f32, width: usize, f: &mut impl Write) -> fmt::Result {
        if self.color {
            let Color([red, green, blue]) = Color::at(intensity);
            return write!(f, "\x1b[48;2;{red};{green};{blue}m{:width$}", "");
        }
        let is_at_least = |&&(from, _): &&(f32, char)| intensity >= from;
        match SHADES.iter().rfind(is_at_least).map_or(' ', |&(_, shade)| shade) {
            // Dots apart make a faint grid that leads the eye to the labels.
            dot @ '·' => write!(f, "{dot:width$}"),
            shade => (0..width).try_for_each(|_| f.write_char(shade)),
        }
    }

    fn reset(self) -> &'static str {
        if self.color { "\x1b[0m" } else { "" }
    }

    fn legend(self, heatmap: &Heatmap<'_>) -> impl fmt::Display {
        let max = heatmap.max();
        fmt::from_fn(move |f| {
            if self.color {
                f.write_str("0.00 ")?;
                (0..LEGEND).try_for_each(|i| self.write_cell(i as f32 / (LEGEND - 1) as f32, 1, f))?;
                return write!(f, "{} {max:.2}", self.reset());
            }
            SHADES.iter().try_for_each(|(from, shade)| write!(f, "{shade}{shade} from {:.2}   ", from * max))?;
            write!(f, "up to {max:.2}")
        })
    }
}

/// Labels that read downwards and end right above their columns.
fn write_column_labels(heatmap: &Heatmap<'_>, margin: usize, cell: usize, f: &mut impl Write) -> fmt::Result {
    let height = heatmap.columns.longest();
    let labels: Vec<Vec<char>> =
        heatmap.columns.labels.iter().map(|label| format!("{label:>height$}").chars().collect()).collect();
    for i in 0..height {
        let letters: String = labels.iter().map(|label| format!("{:cell$}", label[i])).collect();
        write_line(&format!("{:margin$}{letters}", ""), f)?;
    }
    Ok(())
}

fn write_line(line: &str, f: &mut impl Write) -> fmt::Result {
    writeln!(f, "{}", line.trim_end())
}
