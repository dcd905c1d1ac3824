/* Opens TCP connections for a number of seconds, resets each, and prints how many it made in a second. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    struct sockaddr_in server = {.sin_family = AF_INET};
    struct linger reset = {.l_onoff = 1, .l_linger = 0};
    long made = 0, failed = 0;
    double seconds, started, ended;

    if (argc != 4)
        return 2;
    inet_pton(AF_INET, argv[1], &server.sin_addr);
    server.sin_port = htons((unsigned short)atoi(argv[2]));
    seconds = atof(argv[3]);
    started = now();
    do {
        for (int i = 0; i < 100; i++) {
            int connection = socket(AF_INET, SOCK_STREAM, 0);
            setsockopt(connection, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
            if (connect(connection, (struct sockaddr *)&server, sizeof server) == 0)
                made++;
            else
                failed++;
            close(connection);
        }
        ended = now();
    } while (ended - started < seconds);
    if (failed > made / 100 + 20) {
        fprintf(stderr, "%ld of %ld connections failed\n", failed, made + failed);
        return 1;
    }
    printf("%.1f\n", (double)made / (ended - started));
    return 0;
}
