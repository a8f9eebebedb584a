// Prevents a second imgfuse on this machine from writing an image that is mounted without locks, by an abstract socket with a name
// made from the file. It needs no file system and disappears with the process. Other users can only block it, not break it.

import { createServer, type Server } from 'node:net';
import { ImgfuseError } from '../errors/index.ts';

export class ImageClaim {
  private readonly server: Server;

  private constructor(server: Server) {
    this.server = server;
  }

  /** @param identity device and inode of the file @throws ImgfuseError busy if another process has claimed it */
  static take(path: string, identity: string): Promise<ImageClaim> {
    return new Promise((resolve, reject) => {
      const server = createServer((socket) => socket.destroy());
      server.on('error', (cause: NodeJS.ErrnoException) => reject(claimError(path, cause)));
      server.listen(`\0imgfuse-writer-${identity}`, () => resolve(new ImageClaim(server)));
    });
  }

  release(): void {
    this.server.close();
  }
}

/** Replaces Node's message, which has the name of the socket with its NUL and does not help a user. */
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
