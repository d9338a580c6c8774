//! Models.
//! x
/// x
pub struct ModelFile; 
/// x
pub struct ModelManifest;
