/* LD_PRELOAD into slurmctld alone: its background loop asks difftime(now, last) >= 30 before it looks at time limits.
   Saying that the gap is 15 times as long makes that every 2 s. Times in job records are untouched.
   cc -shared -fPIC -O2 -o fasttick.so fasttick.c */
#include <time.h>

double difftime(time_t a, time_t b) {
    double seconds = (double)(a - b);
    return seconds > 0 ? 15 * seconds : seconds;
}
