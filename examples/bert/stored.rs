//! The bundled file: a text, its tokens and its embedding.

use std::error::Error;

use safetensors::SafeTensors;

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/minilm_l6.safetensors");

pub struct Stored {
    pub text: String,
    pub tokens: Vec<u32>,
    pub embedding: Vec<f32>,
}

impl Stored {
    pub fn read() -> Result<Self, Box<dyn Error>> {
        let bytes = std::fs::read(DATA).map_err(|error| format!("{DATA}: {error}"))?;
        Self::parse(&bytes).map_err(|error| format!("{DATA}: {error}").into())
    }

    fn parse(bytes: &[u8]) -> Result<Self, Box<dyn Error>> {
        let (_, header) = SafeTensors::read_metadata(bytes)?;
        let text = header.metadata().as_ref().and_then(|metadata| metadata.get("text"));
        let file = SafeTensors::deserialize(bytes)?;
        let (tokens, embedding) = (file.tensor("token_ids")?, file.tensor("embedding")?);
        let (tokens, embedding) = (tokens.data().as_chunks().0, embedding.data().as_chunks().0);
        Ok(Self {
            text: text.ok_or("the metadata has no text")?.clone(),
            tokens: tokens.iter().map(|&bytes| i64::from_le_bytes(bytes).try_into()).collect::<Result<_, _>>()?,
            embedding: embedding.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect(),
        })
    }
}
