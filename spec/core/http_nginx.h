/* http_nginx.h: a real server with TLS and HTTP/2: nginx with certificates made for it.
 *
 * Started and stopped by the test; its files lie in a folder of their own, which goes with it.
 */
#ifndef WEFT_SPEC_HTTP_NGINX_H
#define WEFT_SPEC_HTTP_NGINX_H

#include "http_helpers.h"

#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

typedef struct nginx {
  pid_t process;
  int port;
  char folder[64], certificate[96], key[96];
} nginx;

static const char nginx_config[] =
    "daemon off; master_process off; pid %s/pid; error_log stderr crit;\n"
    "events { worker_connections 4096; }\n"
    "http {\n"
    "  access_log off; client_body_temp_path %s/body; proxy_temp_path %s/proxy;\n"
    "  fastcgi_temp_path %s/fastcgi; uwsgi_temp_path %s/uwsgi; scgi_temp_path %s/scgi;\n"
    "  keepalive_requests %d; ssl_session_cache builtin;\n"
    "  server {\n"
    "    listen 127.0.0.1:%d ssl http2;\n"
    "    ssl_certificate %s/cert.pem; ssl_certificate_key %s/key.pem;\n"
    "    ssl_client_certificate %s/cert.pem; ssl_verify_client optional;\n"
    "    location / { return 200 \"$server_protocol $connection $ssl_session_reused "
    "$ssl_client_verify\"; }\n"
    "    location /last { keepalive_timeout 0; return 200 \"$ssl_session_reused\"; }\n"
    "    location /files/ { alias %s/files/; gzip off; }\n"
    "  }\n"
    "}\n";

static inline int free_port(void) {
  int port, fd = listen_somewhere(&port);
  close(fd);
  return port;
}

static inline int nginx_write_config(const nginx *n, int keepalive_requests) {
  char path[96];
  snprintf(path, sizeof path, "%s/nginx.conf", n->folder);
  FILE *file = fopen(path, "w");
  if (!file)
    return 0;
  const char *f = n->folder;
  fprintf(file, nginx_config, f, f, f, f, f, f, keepalive_requests, n->port, f, f, f, f);
  return fclose(file) == 0;
}

static inline int nginx_make_certificate(nginx *n) {
  char command[512];
  strcpy(n->folder, "/tmp/weft-nginx-XXXXXX");
  if (!mkdtemp(n->folder))
    return 0;
  snprintf(n->certificate, sizeof n->certificate, "%s/cert.pem", n->folder);
  snprintf(n->key, sizeof n->key, "%s/key.pem", n->folder);
  snprintf(command, sizeof command,
           "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost "
           "-addext subjectAltName=IP:127.0.0.1 -keyout %s -out %s 2>/dev/null",
           n->key, n->certificate);
  return system(command) == 0;
}

static inline int nginx_answers(const nginx *n) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)n->port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  int rc = connect(fd, (struct sockaddr *)&address, sizeof address);
  close(fd);
  return rc == 0;
}

/* 0: it could not be started, or has ended. */
static inline int nginx_start(nginx *n, int keepalive_requests) {
  char config[96];
  if (!*n->folder && !nginx_make_certificate(n))
    return 0;
  n->port = free_port();
  if (!nginx_write_config(n, keepalive_requests))
    return 0;
  snprintf(config, sizeof config, "%s/nginx.conf", n->folder);
  n->process = fork();
  if (n->process == 0) {
    execlp("nginx", "nginx", "-e", "stderr", "-c", config, (char *)NULL);
    execl("/usr/sbin/nginx", "nginx", "-e", "stderr", "-c", config, (char *)NULL);
    _exit(127);
  }
  int status;
  while (!nginx_answers(n)) {
    if (waitpid(n->process, &status, WNOHANG) != 0)
      return 0;
    usleep(10000);
  }
  return 1;
}

static inline void nginx_stop(nginx *n) {
  kill(n->process, SIGTERM);
  waitpid(n->process, NULL, 0);
}

static inline void nginx_remove(nginx *n) {
  char command[128];
  snprintf(command, sizeof command, "rm -r %s", n->folder);
  check(system(command) == 0, "nginx leaves no files");
}

#endif
