// The error of the decoders. The format that calls a decoder adds the file and the offset.

/** Data that a decoder reads is damaged. The message continues a sentence that names it, such as "the compressed cluster ... ". */
export class DamagedData extends Error {}
