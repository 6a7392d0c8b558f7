//! The picture as an SVG document.

use std::fmt::{self, Write};

use super::{
    Heatmap,
    color::{Color, SCALE},
};

/// Side of a cell. All lengths are in pixels.
const CELL: usize = 15;
/// Space around the picture and between its parts.
const GAP: usize = 16;
const FONT: usize = 11;
const TITLE_FONT: usize = 15;
/// What a character of a label is taken to be wide: more than the average one of any sans-serif font.
const LETTER: usize = 7;
/// Size of the legend's bar.
const LEGEND: (usize, usize) = (12, 160);

/// Where the parts lie.
struct Layout {
    /// Left upper corner and size of the matrix.
    x: usize,
    y: usize,
    width: usize,
    height: usize,
    /// Left edge of the legend.
    legend: usize,
    /// Size of the whole picture.
    size: (usize, usize),
}

impl Layout {
    fn new(heatmap: &Heatmap<'_>) -> Self {
        let (width, height) = (CELL * heatmap.columns.labels.len(), CELL * heatmap.rows.labels.len());
        let x = 2 * GAP + FONT + LETTER * heatmap.rows.longest();
        let y = 4 * GAP + FONT + LETTER * heatmap.columns.longest();
        let legend = x + width + GAP;
        let right = (legend + LEGEND.0 + 5 * LETTER).max(GAP + TITLE_FONT * heatmap.title.chars().count() * 3 / 5);
        Self { x, y, width, height, legend, size: (right + GAP, y + height.max(LEGEND.1) + GAP) }
    }

    /// The middle of cell `i` of an axis that begins at `start`.
    fn middle(start: usize, i: usize) -> usize {
        start + CELL * i + CELL / 2
    }
}

pub fn write(heatmap: &Heatmap<'_>, f: &mut impl Write) -> fmt::Result {
    let layout = Layout::new(heatmap);
    let (width, height) = layout.size;
    writeln!(
        f,
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" aria-labelledby="title description" font-family="Helvetica, Arial, sans-serif" font-size="{FONT}" fill="{}">"#,
        Color([34, 34, 34]),
    )?;
    let (title, rows, columns) = (Escaped(heatmap.title), Escaped(heatmap.rows.name), Escaped(heatmap.columns.name));
    writeln!(f, r#"<title id="title">{title}</title>"#)?;
    writeln!(
        f,
        r#"<desc id="description">Heat map; rows: {rows}; columns: {columns}; the darker, the larger.</desc>"#
    )?;
    writeln!(f, r#"<rect width="{width}" height="{height}" fill="white"/>"#)?;
    writeln!(
        f,
        r#"<text x="{GAP}" y="{}" font-size="{TITLE_FONT}" font-weight="bold">{title}</text>"#,
        GAP + TITLE_FONT
    )?;
    write_axes(heatmap, &layout, f)?;
    write_cells(heatmap, &layout, f)?;
    write_legend(heatmap, &layout, f)?;
    writeln!(f, "</svg>")
}

/// Names and labels of the rows, at the left, and of the columns, upwards at the top.
fn write_axes(heatmap: &Heatmap<'_>, layout: &Layout, f: &mut impl Write) -> fmt::Result {
    const NAME: &str = r#"font-style="italic" text-anchor="middle""#;
    const TO_LABEL: usize = 4;
    // From the middle of a line of text to its base line.
    const TO_BASE: usize = FONT / 3;
    let (x, y) = (layout.x + layout.width / 2, 3 * GAP + FONT);
    writeln!(f, r#"<text x="{x}" y="{y}" {NAME}>{}</text>"#, Escaped(heatmap.columns.name))?;
    let (x, y) = (GAP + FONT / 2, layout.y + layout.height / 2);
    let name = Escaped(heatmap.rows.name);
    writeln!(f, r#"<text transform="translate({x} {y}) rotate(-90)" {NAME}>{name}</text>"#)?;

    writeln!(f, r#"<g text-anchor="end">"#)?;
    for (i, label) in heatmap.rows.labels.iter().enumerate() {
        let (x, y) = (layout.x - TO_LABEL, Layout::middle(layout.y, i) + TO_BASE);
        writeln!(f, r#"<text x="{x}" y="{y}">{}</text>"#, Escaped(label))?;
    }
    writeln!(f, "</g>\n<g>")?;
    // Single characters stay upright.
    let (turn, anchor, to_base) =
        if heatmap.columns.longest() > 1 { ("rotate(-90)", "start", TO_BASE) } else { ("rotate(0)", "middle", 0) };
    for (i, label) in heatmap.columns.labels.iter().enumerate() {
        let (x, y, label) = (Layout::middle(layout.x, i) + to_base, layout.y - TO_LABEL, Escaped(label));
        writeln!(f, r#"<text transform="translate({x} {y}) {turn}" text-anchor="{anchor}">{label}</text>"#)?;
    }
    writeln!(f, "</g>")
}

/// A square for each weight that can be told from zero, on a grid.
fn write_cells(heatmap: &Heatmap<'_>, layout: &Layout, f: &mut impl Write) -> fmt::Result {
    let (&Layout { x, y, width, height, .. }, side) = (layout, CELL - 1);
    // A faint grid leads the eye to the labels.
    writeln!(f, r#"<pattern id="grid" x="{x}" y="{y}" width="{CELL}" height="{CELL}" patternUnits="userSpaceOnUse">"#)?;
    writeln!(f, r#"<rect width="{CELL}" height="{CELL}" fill="{}"/>"#, SCALE[1])?;
    writeln!(f, r#"<rect width="{side}" height="{side}" fill="{}"/>"#, SCALE[0])?;
    writeln!(f, "</pattern>")?;
    writeln!(f, r#"<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="url(#grid)"/>"#)?;
    writeln!(f, r#"<g shape-rendering="crispEdges">"#)?;
    for (i, (row, weights)) in heatmap.labelled_rows().enumerate() {
        for (j, (column, &weight)) in heatmap.columns.labels.iter().zip(weights).enumerate() {
            let color = Color::at(heatmap.intensity(weight));
            if color == SCALE[0] {
                continue;
            }
            let (x, y) = (x + CELL * j, y + CELL * i);
            writeln!(
                f,
                r#"<rect x="{x}" y="{y}" width="{side}" height="{side}" fill="{color}"><title>{} → {}: {weight:.2}</title></rect>"#,
                Escaped(row),
                Escaped(column),
            )?;
        }
    }
    writeln!(f, "</g>")
}

/// The scale from zero, at the bottom, to the largest weight.
fn write_legend(heatmap: &Heatmap<'_>, layout: &Layout, f: &mut impl Write) -> fmt::Result {
    let (&Layout { legend: x, y, .. }, (width, height)) = (layout, LEGEND);
    let last = SCALE.len() - 1;
    writeln!(f, r#"<linearGradient id="scale" x1="0" y1="1" x2="0" y2="0">"#)?;
    for (i, color) in SCALE.iter().enumerate() {
        writeln!(f, r#"<stop offset="{}" stop-color="{color}"/>"#, i as f32 / last as f32)?;
    }
    writeln!(f, "</linearGradient>")?;
    writeln!(
        f,
        r#"<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="url(#scale)" stroke="{}"/>"#,
        SCALE[3]
    )?;
    const TICKS: usize = 4;
    for tick in 0..=TICKS {
        let (x, y) = (x + width + LETTER / 2, y + height - height * tick / TICKS + FONT / 3);
        writeln!(f, r#"<text x="{x}" y="{y}">{:.2}</text>"#, heatmap.max() * tick as f32 / TICKS as f32)?;
    }
    Ok(())
}

/// Text as XML spells it.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|character| match character {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&apos;"),
            // XML has no way to write control characters.
            control if control.is_control() => f.write_char(char::REPLACEMENT_CHARACTER),
            other => f.write_char(other),
        })
    }
}
