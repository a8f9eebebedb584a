// The floor of a read and of a write in place: the least that any program does that serves a file over FUSE. It shows one file as one
// file, on a regular file as mountpoint. Each thread has a descriptor of its own of the connection and a buffer of its own,
// and loops: read a request, pread the file behind the out header or pwrite to it, write the reply. What is agreed with the kernel (flags,
// sizes, background requests) is what imgfuse asks for, src/fuse/protocol.ts.
//
//   floor FILE MOUNTPOINT THREADS [MANNER]      serves until SIGTERM, then unmounts
//
//   MANNER  poll    looks 60 times for a request before it sleeps in the kernel
//           splice  moves what is written from the kernel into the file through a pipe, without a buffer. A request is 1020 KiB
//                   at most, because a page is one of the 256 places of the largest pipe, and the headers are another.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_REQUEST (1024 * 1024)
#define HEADROOM 4096
#define PIPE_BYTES (1024 * 1024)
#define PAGE 4096
#define LOOKS 60

static int image;
static int device;
static bool polls;
static bool splices;

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static void reply(int fd, char *out, uint64_t unique, int error, size_t body) {
  struct fuse_out_header *header = (struct fuse_out_header *)out;
  header->len = sizeof *header + body;
  header->error = error;
  header->unique = unique;
  // nobody may wait for it any more
  if (write(fd, out, header->len) < 0 && errno != ENOENT && errno != ENODEV) fail("reply");
}

static size_t attributes(struct fuse_attr_out *out) {
  struct stat stat;
  if (fstat(image, &stat) < 0) fail("fstat");
  memset(out, 0, sizeof *out);
  out->attr.ino = 1;
  out->attr.size = stat.st_size;
  out->attr.blocks = stat.st_blocks;
  out->attr.mode = S_IFREG | 0600;
  out->attr.nlink = 1;
  out->attr.blksize = 65536;
  return sizeof *out;
}

static size_t open_out(struct fuse_open_out *out) {
  memset(out, 0, sizeof *out);
  out->open_flags = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES;
  return sizeof *out;
}

static size_t init_out(const struct fuse_init_in *in, struct fuse_init_out *out) {
  memset(out, 0, sizeof *out);
  out->major = FUSE_KERNEL_VERSION;
  out->minor = FUSE_KERNEL_MINOR_VERSION;
  out->max_readahead = in->max_readahead;
  out->flags = in->flags & (FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_ASYNC_DIO | FUSE_MAX_PAGES);
  out->max_background = 64;
  out->congestion_threshold = 48;
  out->max_write = splices ? PIPE_BYTES - PAGE : MAX_REQUEST;
  out->max_pages = out->max_write / PAGE;
  out->time_gran = 1;
  return sizeof *out;
}

/** Sleeps for the next request. @returns its bytes; of a write by splice only the headers, and the rest is in the pipe */
static ssize_t receive(int fd, char *in, const int *through) {
  for (int i = 0; polls && i < LOOKS && poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 0) == 0; i++) continue;
  if (!splices) return read(fd, in, MAX_REQUEST + HEADROOM);
  ssize_t length = splice(fd, NULL, through[1], NULL, MAX_REQUEST + HEADROOM, 0);
  if (length < 0) return length;
  ssize_t headers = sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in);
  if (headers > length) headers = length;
  if (read(through[0], in, headers) != headers) fail("headers");
  ssize_t rest = length - headers;
  if (rest > 0 && ((struct fuse_in_header *)in)->opcode != FUSE_WRITE && read(through[0], in + headers, rest) != rest) fail("rest");
  return length;
}

/** @returns bytes written, or -1 */
static ssize_t put(const struct fuse_write_in *want, int from) {
  if (!splices) return pwrite(image, want + 1, want->size, want->offset);
  loff_t offset = want->offset;
  for (ssize_t left = want->size; left > 0;) {
    ssize_t moved = splice(from, NULL, image, &offset, left, 0);
    if (moved <= 0) return -1;
    left -= moved;
  }
  return want->size;
}

static void *serve(void *descriptor) {
  int fd = (int)(long)descriptor;
  int through[2];
  if (splices && (pipe(through) < 0 || fcntl(through[1], F_SETPIPE_SZ, PIPE_BYTES) < 0)) fail("pipe");
  char *in = malloc(MAX_REQUEST + HEADROOM);
  char *out = malloc(MAX_REQUEST + HEADROOM);
  if (in == NULL || out == NULL) fail("malloc");
  struct fuse_in_header *header = (struct fuse_in_header *)in;
  void *body = in + sizeof *header;
  void *answer = out + sizeof(struct fuse_out_header);
  for (;;) {
    if (receive(fd, in, through) < 0) {
      if (errno == ENODEV) return NULL;
      if (errno == EINTR || errno == ENOENT) continue;
      fail("read of /dev/fuse");
    }
    if (header->opcode == FUSE_READ) {
      struct fuse_read_in *want = body;
      ssize_t got = pread(image, answer, want->size, want->offset);
      reply(fd, out, header->unique, got < 0 ? -errno : 0, got < 0 ? 0 : got);
    } else if (header->opcode == FUSE_WRITE) {
      ssize_t written = put(body, through[0]);
      struct fuse_write_out *told = answer;
      *told = (struct fuse_write_out){.size = written};
      reply(fd, out, header->unique, written < 0 ? -errno : 0, written < 0 ? 0 : sizeof *told);
    } else if (header->opcode == FUSE_INIT) {
      reply(fd, out, header->unique, 0, init_out(body, answer));
    } else if (header->opcode == FUSE_GETATTR) {
      reply(fd, out, header->unique, 0, attributes(answer));
    } else if (header->opcode == FUSE_OPEN) {
      reply(fd, out, header->unique, 0, open_out(answer));
    } else if (header->opcode == FUSE_RELEASE || header->opcode == FUSE_FLUSH) {
      reply(fd, out, header->unique, 0, 0);
    } else if (header->opcode != FUSE_FORGET && header->opcode != FUSE_BATCH_FORGET && header->opcode != FUSE_INTERRUPT) {
      reply(fd, out, header->unique, -ENOSYS, 0);
    }
  }
}

int main(int argc, char **argv) {
  if (argc != 4 && argc != 5) return 2;
  polls = argc == 5 && strcmp(argv[4], "poll") == 0;
  splices = argc == 5 && strcmp(argv[4], "splice") == 0;
  image = open(argv[1], O_RDWR);
  if (image < 0) fail(argv[1]);
  device = open("/dev/fuse", O_RDWR);
  if (device < 0) fail("/dev/fuse");
  sigset_t end;
  sigemptyset(&end);
  sigaddset(&end, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &end, NULL);
  char options[128];
  snprintf(options, sizeof options, "fd=%d,rootmode=100000,user_id=0,group_id=0,max_read=%d", device, MAX_REQUEST);
  if (mount("floor", argv[2], "fuse", MS_NOSUID | MS_NODEV, options) < 0) fail("mount");
  int threads = atoi(argv[3]);
  for (int i = 0; i < threads; i++) {
    int clone = open("/dev/fuse", O_RDWR);
    if (clone < 0 || ioctl(clone, FUSE_DEV_IOC_CLONE, &device) < 0) fail("clone");
    pthread_t thread;
    if (pthread_create(&thread, NULL, serve, (void *)(long)clone) != 0) fail("thread");
  }
  int signal;
  sigwait(&end, &signal);
  // the threads go on waiting if another mount namespace has a copy of the mount; the end of the process ends the connection
  if (umount2(argv[2], 0) < 0) fail("umount");
  return 0;
}
