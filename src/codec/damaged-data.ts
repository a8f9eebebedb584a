// The error of the decoders. The format that calls a decoder adds the file and the offset.

/** Compressed data is damaged. The message continues a sentence that starts with "the compressed cluster ... ". */
export class DamagedData extends Error {}
