//! Matrices in text, side by side.

use std::fmt;

/// Matrices of as many rows, each a column of text; rows are labelled with a name, if there is one, and a number.
pub struct Table<'a> {
    pub row: &'a str,
    pub columns: &'a [Column],
}

/// A matrix under its name.
pub struct Column {
    name: String,
    rows: Vec<String>,
}

impl Column {
    pub fn new<const N: usize>(name: &str, matrix: &[[f32; N]], decimals: usize) -> Self {
        let numbers = matrix.iter().map(|row| row.map(|x| format!("{x:.decimals$}")));
        let width = numbers.clone().flatten().map(|number| number.len()).max().unwrap_or(0);
        let rows = numbers.map(|row| row.map(|number| format!("{number:>width$}")).join(" ")).collect();
        Self { name: name.to_owned(), rows }
    }

    /// Characters of the longest line.
    fn width(&self) -> usize {
        self.rows.iter().chain([&self.name]).map(String::len).max().unwrap_or(0)
    }
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.columns.iter().map(|column| column.rows.len()).max().unwrap_or(0);
        let labels: Vec<String> = match self.row {
            "" => vec![String::new(); rows],
            row => (1..=rows).map(|i| format!("{row} {i}  ")).collect(),
        };
        let margin = labels.iter().map(String::len).max().unwrap_or(0);
        if self.columns.iter().any(|column| !column.name.is_empty()) {
            self.write_line(f, &format!("{:margin$}", ""), |column| &column.name)?;
        }
        labels.iter().enumerate().try_for_each(|(i, label)| self.write_line(f, label, |column| &column.rows[i]))
    }
}

impl Table<'_> {
    fn write_line(&self, f: &mut fmt::Formatter<'_>, label: &str, text: impl Fn(&Column) -> &str) -> fmt::Result {
        let cells: String =
            self.columns.iter().map(|column| format!("{:width$}   ", text(column), width = column.width())).collect();
        writeln!(f, "{}", format!("   {label}{cells}").trim_end())
    }
}
