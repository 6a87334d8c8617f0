//! The seal of a leg that travels: the first bytes of its superblock are others, so that no program takes the disk for a leg, a
//! kernel or udev on the way neither, before all of it was read and found to be what was loaded.

use crate::array::disk::{Disk, DiskError};
use crate::array::leg::{Leg, LegError};
pub use crate::raid1::holds::SEAL;

/// Where it is: version 1.2 of the superblock, the only one that travels.
const PLACE: u64 = 4096;
/// What the superblock has there.
const MAGIC: [u8; 4] = [0xfc, 0x4e, 0x2b, 0xa9];

/// Whether the disk is sealed.
///
/// # Errors
/// If it can't be read. A disk that is too short is not sealed.
pub fn is_sealed(disk: &Disk) -> Result<bool, DiskError> {
    Ok(disk.size() >= PLACE + 4096 && disk.read(PLACE, SEAL.len())? == SEAL)
}

/// Reads the metadata of a leg that is sealed, or was not yet.
///
/// # Errors
/// See [`Leg::read`].
pub fn read(disk: &Disk) -> Result<Leg, LegError> {
    let sealed = is_sealed(disk)?;
    Leg::read_by(disk.size(), |at, length| {
        let mut bytes = disk.read(at, length)?;
        if sealed && at == PLACE && length >= MAGIC.len() {
            bytes[..MAGIC.len()].copy_from_slice(&MAGIC);
        }
        Ok(bytes)
    })
}

/// Seals a leg; durable when this returns.
///
/// # Errors
/// If it can't be written.
pub fn put(disk: &Disk) -> Result<(), DiskError> {
    disk.write(PLACE, SEAL)
}

/// Takes the seal off; the leg is one from now on, durably.
///
/// # Errors
/// If it can't be written.
pub fn take_off(disk: &Disk) -> Result<(), DiskError> {
    disk.write(PLACE, &MAGIC)
}

/// Makes a disk hold no leg, sealed or not; durable when this returns.
///
/// # Errors
/// If it can't be written.
pub fn wipe(disk: &Disk) -> Result<(), DiskError> {
    disk.write(PLACE, &[0; 4096])
}
