//! What is told while tokens are generated, and in the end.

use std::io::{self, Write};

use crate::{
    cache::Cache,
    decoder::{Clock, Decoder, Measured},
    options::{Layer, Options},
};

const MEGA: f64 = 1e6;

/// What is about to be done, and the head of the table.
pub fn begin(options: &Options, out: &mut impl Write) -> io::Result<()> {
    let Options { layer: Layer { heads, kv_heads, dim, backend }, page_size, sequences, prompt, steps } = *options;
    writeln!(
        out,
        "A decoder's attention: {heads} query heads on {kv_heads} key/value heads of {dim}, on backend {backend}. {sequences} sequences, prompts of up to\n\
         {prompt} tokens that begin alike, {steps} steps. The int8 cache has pages of {page_size} tokens; both get the same tokens.\n"
    )?;
    writeln!(out, "          microseconds a token        megabytes         error, % of the output's rms")?;
    writeln!(out, "  tokens       f32      int8        f32      int8        largest        rms")
}

/// Where generation stands, and how the steps since the last line went.
pub fn checkpoint(decoder: &Decoder, measured: &Measured, out: &mut impl Write) -> io::Result<()> {
    let Measured { plain, paged, accuracy } = measured;
    let tokens = decoder.plain.lens().iter().max().unwrap_or(&0);
    let times = [plain, paged].map(Clock::microseconds_of_token);
    let megabytes = [decoder.plain.bytes(), decoder.paged.bytes()].map(|bytes| bytes as f64 / MEGA);
    writeln!(
        out,
        "{tokens:>8}{:>10.0}{:>10.0} {:>10.2}{:>10.2}     {:>10.2} {:>10.3}",
        times[0],
        times[1],
        megabytes[0],
        megabytes[1],
        100.0 * accuracy.largest(),
        100.0 * accuracy.rms()
    )
}

/// Speed, memory and error of all steps.
pub fn end(decoder: &Decoder, total: &Measured, out: &mut impl Write) -> io::Result<()> {
    writeln!(out)?;
    speed("f32", &total.plain, out)?;
    speed("int8", &total.paged, out)?;
    let [plain, paged] = [&total.plain, &total.paged].map(Clock::tokens_per_second);
    writeln!(out, "               int8 has {:.2} times the speed of f32", paged / plain)?;
    memory(decoder, out)?;
    write!(out, "{}", total.accuracy.beside(&decoder.magnitudes))
}

fn speed(name: &str, clock: &Clock, out: &mut impl Write) -> io::Result<()> {
    let (tokens, gigabytes) = (clock.tokens_per_second(), clock.gigabytes_per_second());
    let appending = 100.0 * clock.appending();
    writeln!(
        out,
        "speed, {name:<4}    {tokens:.0} tokens/s, {gigabytes:.1} GB/s of keys and values; appending takes {appending:.1} % of the time"
    )
}

fn memory(Decoder { plain, paged, .. }: &Decoder, out: &mut impl Write) -> io::Result<()> {
    let (pages, saved, of_page) = (paged.pages_in_use(), paged.pages_saved(), paged.bytes_of_page());
    let [whole, bytes] = [plain.bytes(), paged.bytes()];
    let unshared = bytes + saved * of_page;
    let percent = 100.0 * (saved * of_page) as f64 / unshared as f64;
    let ratio = plain.bytes_of_token() as f64 / paged.bytes_of_token() as f64;
    writeln!(out, "memory, f32    {whole} bytes from the first token on, room for {}", whole / plain.bytes_of_token())?;
    writeln!(out, "memory, int8   {bytes} bytes in {pages} pages of {of_page}, from a pool of {}", paged.pages())?;
    writeln!(out, "               {saved} more, {unshared} bytes, if none were shared: sharing saves {percent:.1} %")?;
    writeln!(
        out,
        "               f32 takes {:.2} times the memory, {ratio:.2} times as much for a token",
        whole as f64 / bytes as f64
    )
}
