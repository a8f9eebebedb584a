// Authorities beside those that Node knows. The user names their file in NODE_EXTRA_CA_CERTS; a mount process gets it under another
// name, because Node would read it at every start, and few images need a server.

import { createRequire } from 'node:module';
import { readText } from '../small-files.ts';

export const EXTRA_AUTHORITIES = 'IMGFUSE_EXTRA_CA_CERTS';

/** For the options of a TLS connection. A file that cannot be read adds nothing, as in Node. */
export function extraAuthorities(): { ca?: string[] } {
  const path = process.env[EXTRA_AUTHORITIES];
  const certificates = path === undefined ? null : readText(path);
  if (certificates === null) return {};
  const { rootCertificates } = createRequire(import.meta.url)('node:tls') as typeof import('node:tls');
  return { ca: [...rootCertificates, certificates] };
}
