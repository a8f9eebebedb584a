// Keeps a second imgfuse of this machine from writing an image that is mounted without locks: an abstract socket named after
// the file. It needs no file system, ends with the process however that ends, and other users can do no more than be in the way.

import { createServer, type Server } from 'node:net';
import { ImgfuseError } from '../errors/index.ts';

export class ImageClaim {
  readonly #server: Server;

  private constructor(server: Server) {
    this.#server = server;
  }

  /** @param identity device and inode of the file @throws ImgfuseError busy when another process has claimed it */
  static take(path: string, identity: string): Promise<ImageClaim> {
    return new Promise((resolve, reject) => {
      const server = createServer((socket) => socket.destroy());
      server.on('error', (cause: NodeJS.ErrnoException) => reject(claimError(path, cause)));
      server.listen(`\0imgfuse-writer-${identity}`, () => resolve(new ImageClaim(server)));
    });
  }

  release(): void {
    this.#server.close();
  }
}

/** Node's own message has the name of the socket in it, with its NUL, and says nothing to a user. */
function claimError(path: string, { code, message }: NodeJS.ErrnoException): ImgfuseError {
  if (code === 'EADDRINUSE') {
    const sentence = `${path} is open for writing by another imgfuse already, also without locks; "imgfuse status" names it`;
    return new ImgfuseError('busy', sentence, { path });
  }
  const why = code ?? message;
  return new ImgfuseError(
    'io',
    `${path} cannot be kept from a second imgfuse that writes: no socket can be made (${why})`,
    {
      path,
    },
  );
}
