#include "search_steps.cpp"
